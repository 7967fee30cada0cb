//! What directives other than rules set: the engine's mode, limits and reading habits.

use std::time::Duration;

use crate::operator::Pattern;
use crate::seclang::action::{AuditMode, EngineMode, Switch};
use crate::transform::UnicodeMap;

/// What happens to a body beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitAction {
    Reject,
    ProcessPartial,
}

/// Everything that is not a rule.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) engine: EngineMode,
    pub(crate) request_body: Switch,
    pub(crate) request_body_limit_bytes: usize,
    /// The part of the limit that is not uploaded files.
    pub(crate) request_body_no_files_limit_bytes: usize,
    pub(crate) request_body_limit_action: LimitAction,
    pub(crate) json_depth: usize,
    pub(crate) arguments: usize,
    pub(crate) upload_files: usize,
    pub(crate) response_body: Switch,
    pub(crate) response_body_limit_bytes: usize,
    pub(crate) response_body_limit_action: LimitAction,
    /// Lower case; the media type without its parameters.
    pub(crate) response_types: Vec<String>,
    pub(crate) audit: AuditMode,
    pub(crate) audit_statuses: Option<Pattern>,
    pub(crate) argument_separator: u8,
    pub(crate) unicode_map: UnicodeMap,
    pub(crate) collection_timeout: Duration,
    pub(crate) component_signatures: Vec<String>,
    pub(crate) web_app_id: String,
}

impl Default for Settings {
    /// ModSecurity's defaults, but that the engine is on: a rule set that is loaded is meant to run.
    fn default() -> Self {
        Self {
            engine: EngineMode::On,
            request_body: Switch::Off,
            request_body_limit_bytes: 134_217_728,
            request_body_no_files_limit_bytes: 1_048_576,
            request_body_limit_action: LimitAction::Reject,
            json_depth: 512,
            arguments: 1000,
            upload_files: 100,
            response_body: Switch::Off,
            response_body_limit_bytes: 524_288,
            response_body_limit_action: LimitAction::Reject,
            response_types: vec!["text/plain".to_owned(), "text/html".to_owned()],
            audit: AuditMode::Off,
            audit_statuses: None,
            argument_separator: b'&',
            unicode_map: UnicodeMap::default(),
            collection_timeout: Duration::from_secs(3600),
            component_signatures: Vec::new(),
            web_app_id: "default".to_owned(),
        }
    }
}

/// What became of a directive.
pub(crate) enum Applied {
    Done,
    /// Accepted, but the engine has nothing it could change.
    Inert(&'static str),
    Unknown,
}

impl Settings {
    /// Applies one directive, given in lower case. Files are read by the caller.
    pub(crate) fn apply(&mut self, directive: &str, words: &[String]) -> Result<Applied, String> {
        let one = || match words {
            [word] => Ok(word.as_str()),
            _ => Err(format!("expects one value, found {}", words.len())),
        };
        match directive {
            "secruleengine" => self.engine = EngineMode::parse(one()?).ok_or("expected On, Off or DetectionOnly")?,
            "secrequestbodyaccess" => self.request_body = switch(one()?)?,
            "secrequestbodylimit" => self.request_body_limit_bytes = number(one()?)?,
            "secrequestbodynofileslimit" => self.request_body_no_files_limit_bytes = number(one()?)?,
            "secrequestbodylimitaction" => self.request_body_limit_action = limit_action(one()?)?,
            "secrequestbodyjsondepthlimit" => self.json_depth = number(one()?)?,
            "secargumentslimit" => self.arguments = number(one()?)?,
            "secuploadfilelimit" => self.upload_files = number(one()?)?,
            "secresponsebodyaccess" => self.response_body = switch(one()?)?,
            "secresponsebodylimit" => self.response_body_limit_bytes = number(one()?)?,
            "secresponsebodylimitaction" => self.response_body_limit_action = limit_action(one()?)?,
            "secresponsebodymimetype" => self.response_types.extend(words.iter().map(|word| word.to_ascii_lowercase())),
            "secresponsebodymimetypesclear" => self.response_types.clear(),
            "secauditengine" => self.audit = AuditMode::parse(one()?).ok_or("expected On, Off or RelevantOnly")?,
            "secauditlogrelevantstatus" => self.audit_statuses = Some(status_pattern(one()?)?),
            "secargumentseparator" => match one()?.as_bytes() {
                [byte] => self.argument_separator = *byte,
                _ => return Err("expected one character".to_owned()),
            },
            "seccollectiontimeout" => self.collection_timeout = Duration::from_secs(number(one()?)?),
            "seccomponentsignature" => self.component_signatures.push(one()?.to_owned()),
            "secwebappid" => one()?.clone_into(&mut self.web_app_id),
            "seccookieformat" if matches!(words, [word] if word == "0") => {}
            "seccookieformat" => return Err("only cookie format 0 is supported".to_owned()),
            "secxmlexternalentity"
            | "secparsexmlintoargs"
            | "secdisablebackendcompression"
            | "secconnengine"
            | "sechashengine"
            | "seccontentinjection"
            | "secstreaminbodyinspection"
            | "secstreamoutbodyinspection"
                if matches!(words, [word] if word.eq_ignore_ascii_case("off")) => {}
            _ => return inert(directive),
        }
        Ok(Applied::Done)
    }
}

/// Directives about ModSecurity's own files, logs and matcher, which do not exist here.
fn inert(directive: &str) -> Result<Applied, String> {
    Ok(match directive {
        "secpcrematchlimit" | "secpcrematchlimitrecursion" => Applied::Inert("patterns run in linear time"),
        "secauditlog"
        | "secauditlog2"
        | "secauditlogtype"
        | "secauditlogparts"
        | "secauditlogstoragedir"
        | "secauditlogformat"
        | "secauditlogdirmode"
        | "secauditlogfilemode"
        | "secdebuglog"
        | "secdebugloglevel"
        | "secguardianlog" => Applied::Inert("logs are written by the gateway"),
        "sectmpdir"
        | "secdatadir"
        | "secuploaddir"
        | "secuploadkeepfiles"
        | "secuploadfilemode"
        | "sectmpsaveuploadedfiles"
        | "secrequestbodyinmemorylimit" => Applied::Inert("nothing is written to disk"),
        "secstatusengine"
        | "secserversignature"
        | "secsensorid"
        | "secchrootdir"
        | "seccachetransformations"
        | "secruleperftime"
        | "secinterceptonerror" => Applied::Inert("it has no meaning in this engine"),
        "secgeolookupdb" | "sechttpblkey" => Applied::Inert("there are no GeoIP or DNS lookups"),
        _ => Applied::Unknown,
    })
}

fn switch(word: &str) -> Result<Switch, String> {
    match word.to_ascii_lowercase().as_str() {
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        _ => Err("expected On or Off".to_owned()),
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("\"{word}\" is not a number in range"))
}

fn limit_action(word: &str) -> Result<LimitAction, String> {
    match word.to_ascii_lowercase().as_str() {
        "reject" => Ok(LimitAction::Reject),
        "processpartial" => Ok(LimitAction::ProcessPartial),
        _ => Err("expected Reject or ProcessPartial".to_owned()),
    }
}

/// The pattern every recommended configuration carries has a look-ahead: `^(?:5|4(?!04))`.
fn status_pattern(word: &str) -> Result<Pattern, String> {
    let rewritten = word.replace("4(?!04)", "4(?:[1-9][0-9]|0[0-35-9])");
    Pattern::compile(&rewritten)
}
