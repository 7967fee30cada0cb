//! The rule set with the settings that its own continuous integration uses: PL 4, detection only.

use std::path::Path;

use portcullis_waf::{Disk, Source, Waf};

const ENGINE: &str = r#"
SecRuleEngine DetectionOnly
SecRequestBodyAccess On
SecRequestBodyLimit 13107200
SecRequestBodyNoFilesLimit 131072
SecRequestBodyLimitAction Reject
SecRequestBodyJsonDepthLimit 512
SecArgumentsLimit 1000
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml application/json
SecResponseBodyLimit 1048576
SecResponseBodyLimitAction ProcessPartial
SecArgumentSeparator &
SecCookieFormat 0
SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\+|/)|text/)xml" \
    "id:'200000',phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "^application/json" \
    "id:'200001',phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "^application/[a-z0-9.-]+[+]json" \
    "id:'200006',phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" \
    "id:'200002',phase:2,t:none,log,deny,status:400,msg:'Failed to parse request body.',logdata:'%{reqbody_error_msg}',severity:2"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" \
    "id:'200003',phase:2,t:none,log,deny,status:400,msg:'Multipart request body failed strict validation.'"
SecRule MULTIPART_UNMATCHED_BOUNDARY "@eq 1" \
    "id:'200004',phase:2,t:none,log,deny,msg:'Multipart parser detected a possible unmatched boundary.'"
SecRule TX:/^MSC_/ "!@streq 0" "id:'200005',phase:2,t:none,deny,msg:'ModSecurity internal error flagged: %{MATCHED_VAR_NAME}'"
"#;

const SETUP: &str = r#"
SecAction "id:900000,phase:1,pass,t:none,nolog,setvar:tx.blocking_paranoia_level=4"
SecAction "id:900300,phase:1,pass,t:none,nolog,setvar:tx.max_num_args=255"
SecAction "id:900310,phase:1,pass,t:none,nolog,setvar:tx.arg_name_length=100"
SecAction "id:900320,phase:1,pass,t:none,nolog,setvar:tx.arg_length=400"
SecAction "id:900330,phase:1,pass,t:none,nolog,setvar:tx.total_arg_length=6400"
SecAction "id:900340,phase:1,pass,t:none,nolog,setvar:tx.max_file_size=64100"
SecAction "id:900350,phase:1,pass,t:none,nolog,setvar:tx.combined_file_sizes=65535"
"#;

/// Compiles the rules of a checkout.
pub(crate) fn compile(folder: &Path) -> Waf {
    let text = |name: &str, text: &str| Source::Text { name: name.to_owned(), text: text.to_owned() };
    let sources = [
        text("engine", ENGINE),
        Source::File(folder.join("crs-setup.conf.example")),
        text("setup", SETUP),
        Source::File(folder.join("rules/*.conf")),
    ];
    Waf::compile(&sources, &Disk).unwrap_or_else(|errors| {
        errors.iter().for_each(|error| println!("{error}"));
        panic!("{} errors in the rule set", errors.len());
    })
}
