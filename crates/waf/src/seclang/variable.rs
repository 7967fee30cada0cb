//! The variables a rule can look at, by name. What each holds is decided in `transaction`.

/// Whether a variable holds one value or many named ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Scalar,
    Collection,
}

macro_rules! variables {
    ($($variant:ident $name:literal $shape:ident)+) => {
        /// A variable of SecLang.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Variable { $($variant),+ }

        impl Variable {
            const ALL: &[(Self, &str, Shape)] = &[$((Self::$variant, $name, Shape::$shape)),+];

            /// The name as logs write it.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

variables! {
    Args "ARGS" Collection
    ArgsCombinedSize "ARGS_COMBINED_SIZE" Scalar
    ArgsGet "ARGS_GET" Collection
    ArgsGetNames "ARGS_GET_NAMES" Collection
    ArgsNames "ARGS_NAMES" Collection
    ArgsPost "ARGS_POST" Collection
    ArgsPostNames "ARGS_POST_NAMES" Collection
    AuthType "AUTH_TYPE" Scalar
    Duration "DURATION" Scalar
    Env "ENV" Collection
    Files "FILES" Collection
    FilesCombinedSize "FILES_COMBINED_SIZE" Scalar
    FilesNames "FILES_NAMES" Collection
    FilesSizes "FILES_SIZES" Collection
    FilesTmpContent "FILES_TMP_CONTENT" Collection
    FullRequest "FULL_REQUEST" Scalar
    FullRequestLength "FULL_REQUEST_LENGTH" Scalar
    Geo "GEO" Collection
    Global "GLOBAL" Collection
    HighestSeverity "HIGHEST_SEVERITY" Scalar
    InboundDataError "INBOUND_DATA_ERROR" Scalar
    Ip "IP" Collection
    MatchedVar "MATCHED_VAR" Scalar
    MatchedVarName "MATCHED_VAR_NAME" Scalar
    MatchedVars "MATCHED_VARS" Collection
    MatchedVarsNames "MATCHED_VARS_NAMES" Collection
    MultipartBoundaryQuoted "MULTIPART_BOUNDARY_QUOTED" Scalar
    MultipartBoundaryWhitespace "MULTIPART_BOUNDARY_WHITESPACE" Scalar
    MultipartCrlfLfLines "MULTIPART_CRLF_LF_LINES" Scalar
    MultipartDataAfter "MULTIPART_DATA_AFTER" Scalar
    MultipartDataBefore "MULTIPART_DATA_BEFORE" Scalar
    MultipartFileLimitExceeded "MULTIPART_FILE_LIMIT_EXCEEDED" Scalar
    MultipartFilename "MULTIPART_FILENAME" Scalar
    MultipartHeaderFolding "MULTIPART_HEADER_FOLDING" Scalar
    MultipartInvalidHeaderFolding "MULTIPART_INVALID_HEADER_FOLDING" Scalar
    MultipartInvalidPart "MULTIPART_INVALID_PART" Scalar
    MultipartInvalidQuoting "MULTIPART_INVALID_QUOTING" Scalar
    MultipartLfLine "MULTIPART_LF_LINE" Scalar
    MultipartMissingSemicolon "MULTIPART_MISSING_SEMICOLON" Scalar
    MultipartName "MULTIPART_NAME" Scalar
    MultipartPartHeaders "MULTIPART_PART_HEADERS" Collection
    MultipartStrictError "MULTIPART_STRICT_ERROR" Scalar
    MultipartUnmatchedBoundary "MULTIPART_UNMATCHED_BOUNDARY" Scalar
    OutboundDataError "OUTBOUND_DATA_ERROR" Scalar
    PathInfo "PATH_INFO" Scalar
    QueryString "QUERY_STRING" Scalar
    RemoteAddr "REMOTE_ADDR" Scalar
    RemoteHost "REMOTE_HOST" Scalar
    RemotePort "REMOTE_PORT" Scalar
    RemoteUser "REMOTE_USER" Scalar
    ReqbodyError "REQBODY_ERROR" Scalar
    ReqbodyErrorMsg "REQBODY_ERROR_MSG" Scalar
    ReqbodyProcessor "REQBODY_PROCESSOR" Scalar
    ReqbodyProcessorError "REQBODY_PROCESSOR_ERROR" Scalar
    ReqbodyProcessorErrorMsg "REQBODY_PROCESSOR_ERROR_MSG" Scalar
    RequestBasename "REQUEST_BASENAME" Scalar
    RequestBody "REQUEST_BODY" Scalar
    RequestBodyLength "REQUEST_BODY_LENGTH" Scalar
    RequestCookies "REQUEST_COOKIES" Collection
    RequestCookiesNames "REQUEST_COOKIES_NAMES" Collection
    RequestFilename "REQUEST_FILENAME" Scalar
    RequestHeaders "REQUEST_HEADERS" Collection
    RequestHeadersNames "REQUEST_HEADERS_NAMES" Collection
    RequestLine "REQUEST_LINE" Scalar
    RequestMethod "REQUEST_METHOD" Scalar
    RequestProtocol "REQUEST_PROTOCOL" Scalar
    RequestUri "REQUEST_URI" Scalar
    RequestUriRaw "REQUEST_URI_RAW" Scalar
    Resource "RESOURCE" Collection
    ResponseBody "RESPONSE_BODY" Scalar
    ResponseContentLength "RESPONSE_CONTENT_LENGTH" Scalar
    ResponseContentType "RESPONSE_CONTENT_TYPE" Scalar
    ResponseHeaders "RESPONSE_HEADERS" Collection
    ResponseHeadersNames "RESPONSE_HEADERS_NAMES" Collection
    ResponseProtocol "RESPONSE_PROTOCOL" Scalar
    ResponseStatus "RESPONSE_STATUS" Scalar
    Rule "RULE" Collection
    ServerAddr "SERVER_ADDR" Scalar
    ServerName "SERVER_NAME" Scalar
    ServerPort "SERVER_PORT" Scalar
    Session "SESSION" Collection
    SessionId "SESSIONID" Scalar
    StatusLine "STATUS_LINE" Scalar
    Time "TIME" Scalar
    TimeDay "TIME_DAY" Scalar
    TimeEpoch "TIME_EPOCH" Scalar
    TimeHour "TIME_HOUR" Scalar
    TimeMin "TIME_MIN" Scalar
    TimeMon "TIME_MON" Scalar
    TimeSec "TIME_SEC" Scalar
    TimeWday "TIME_WDAY" Scalar
    TimeYear "TIME_YEAR" Scalar
    Tx "TX" Collection
    UniqueId "UNIQUE_ID" Scalar
    UrlencodedError "URLENCODED_ERROR" Scalar
    User "USER" Collection
    UserId "USERID" Scalar
    WebAppId "WEBAPPID" Scalar
    Xml "XML" Collection
}

impl Variable {
    /// Names are matched in any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let name = match name.to_ascii_uppercase().as_str() {
            "REQUEST_BASE_NAME" => "REQUEST_BASENAME".to_owned(),
            "REQUEST_URI_PATH" => "REQUEST_FILENAME".to_owned(),
            other => other.to_owned(),
        };
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(variable, ..)| *variable)
    }

    pub(crate) fn shape(self) -> Shape {
        Self::ALL.iter().find(|(variable, ..)| *variable == self).map_or(Shape::Scalar, |(.., shape)| *shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_found_by_its_name_in_any_case() {
        for (variable, name, _) in Variable::ALL {
            assert_eq!(Variable::parse(name), Some(*variable));
            assert_eq!(Variable::parse(&name.to_lowercase()), Some(*variable));
        }
        assert_eq!(Variable::parse("NO_SUCH"), None);
    }
}
