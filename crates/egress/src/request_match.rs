//! Methods and path prefixes: which requests an access rule or a credential is about.

use portcullis_config::{Context, Path};
use portcullis_policy::{AccessMatchSpec, normalise_path};

/// What is seen of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Inside a tunnel that is not opened.
    Unseen,
    /// `path` as it came, with or without a query.
    Seen { method: &'a str, path: &'a str },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestMatch {
    methods: Vec<String>,
    /// Normalised, without a slash at its end.
    path: Option<String>,
}

/// Three answers: a rule that cannot be judged is not one that does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fits {
    Yes,
    No,
    CannotTell,
}

impl RequestMatch {
    pub(crate) fn compile(spec: &AccessMatchSpec, at: &Path, cx: &mut Context) -> Option<Self> {
        if spec.methods.is_none() && spec.path.is_none() {
            cx.error(at, "nothing is matched").help("say `methods` or `path`, or leave `match` out");
        }
        if spec.methods.as_ref().is_some_and(Vec::is_empty) {
            cx.error(&at.key("methods"), "an empty list takes no request").help("leave `methods` out for all");
        }
        let path = match &spec.path {
            None => None,
            Some(text) => match normalise_path(text) {
                Ok(path) if path == text.as_str() && !text.contains(['?', '*']) => {
                    Some(text.trim_end_matches('/').to_owned())
                }
                Ok(_) | Err(_) => {
                    cx.error(&at.key("path"), format!("`{text}` is not a path prefix in its plain spelling"))
                        .help("write whole segments, like \"/v1/charges\"");
                    None
                }
            },
        };
        let methods = spec.methods.iter().flatten().map(|method| method.as_str().to_owned()).collect();
        Some(Self { methods, path })
    }

    pub(crate) fn fits(&self, request: Request<'_>) -> Fits {
        let Request::Seen { method, path } = request else { return Fits::CannotTell };
        if !self.methods.is_empty() && !self.methods.iter().any(|have| have == method) {
            return Fits::No;
        }
        let Some(prefix) = &self.path else { return Fits::Yes };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        // What the origin makes of `/./` and `%2e` is not known here: the rule is about the place, whatever its spelling.
        match normalise_path(path) {
            Ok(path) => match path.strip_prefix(prefix.as_str()) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => Fits::Yes,
                Some(_) | None => Fits::No,
            },
            Err(_) => Fits::CannotTell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fit_by_method_and_whole_segments() {
        let rule = RequestMatch { methods: vec!["GET".into(), "POST".into()], path: Some("/charge".into()) };
        let seen = |method, path| rule.fits(Request::Seen { method, path });
        for (method, path, fits) in [
            ("GET", "/charge", Fits::Yes),
            ("POST", "/charge/7?x=/y", Fits::Yes),
            ("GET", "/./charge", Fits::Yes),
            ("GET", "/%63harge/7", Fits::Yes),
            ("GET", "//charge", Fits::Yes),
            ("GET", "/x/../charge", Fits::Yes),
            ("GET", "/charge/../admin", Fits::No),
            ("GET", "/charge/%2e%2e/admin", Fits::No),
            ("GET", "/charges", Fits::No),
            ("GET", "/", Fits::No),
            ("DELETE", "/charge", Fits::No),
            ("get", "/charge", Fits::No),
            ("GET", "/charge%zz", Fits::CannotTell),
            ("GET", "*", Fits::CannotTell),
        ] {
            assert_eq!(seen(method, path), fits, "{method} {path}");
        }
        assert_eq!(rule.fits(Request::Unseen), Fits::CannotTell);
    }
}
