//! How a message differs from what the document says.

use serde::Serialize;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub kind: ViolationKind,
    /// `query limit`, `body /items/0/price`.
    pub place: String,
    /// Which rule it breaks; never the value.
    pub message: String,
}

/// Which of the operator's modes is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViolationGroup {
    Request,
    Response,
    Unknown,
    /// Of requests that cannot be looked into.
    Unsupported,
    /// Of responses that cannot.
    ResponseUnsupported,
}

macro_rules! kinds {
    ($($variant:ident = $label:literal, $group:ident, $status:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ViolationKind {
            $($variant,)*
        }

        impl ViolationKind {
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            pub const fn group(self) -> ViolationGroup {
                match self {
                    $(Self::$variant => ViolationGroup::$group,)*
                }
            }

            /// The status that answers it, and the reason that the logs give.
            pub const fn refusal(self) -> (u16, &'static str) {
                match self {
                    $(Self::$variant => ($status, concat!("api_", $label)),)*
                }
            }
        }
    };
}

kinds! {
    UnknownPath = "unknown_path", Unknown, 404;
    UnknownMethod = "unknown_method", Unknown, 405;
    UnknownParameter = "unknown_parameter", Unknown, 400;
    Parameter = "parameter", Request, 400;
    ContentType = "content_type", Request, 415;
    Body = "body", Request, 400;
    BodyMissing = "body_missing", Request, 400;
    BodyUnexpected = "body_unexpected", Request, 400;
    BodyTooLarge = "body_too_large", Request, 413;
    BodyUnsupported = "body_unsupported", Unsupported, 415;
    ResponseStatus = "response_status", Response, 502;
    ResponseContentType = "response_content_type", Response, 502;
    ResponseBody = "response_body", Response, 502;
    ResponseBodyUnsupported = "response_body_unsupported", ResponseUnsupported, 502;
}

impl Violation {
    pub fn new(kind: ViolationKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, place: place.into(), message: message.into() }
    }
}
