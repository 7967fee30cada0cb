//! The action list of a rule: `id:1,phase:2,t:none,setvar:'tx.a=+1'`.
//!
//! Reads and types every action; defaults and updates are applied when the program is compiled.

use super::target::{Slot, Target, parse_target};
use super::template::Template;
use super::variable::Variable;
use crate::transform::Transform;

/// One action as written.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Id(u32),
    Phase(Phase),
    Message(Template),
    LogData(Template),
    Tag(Box<str>),
    Version(Box<str>),
    Revision(Box<str>),
    Severity(Severity),
    Maturity(u8),
    Accuracy(u8),
    Log(Switch),
    AuditLog(Switch),
    Capture,
    MultiMatch,
    Chain,
    /// `t:none`.
    ForgetTransforms,
    Transform(Transform),
    Status(u16),
    Disruptive(Disruptive),
    Skip(u32),
    SkipAfter(Box<str>),
    Effect(Effect),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    On,
    Off,
}

/// A phase of a transaction, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Phase 1.
    RequestHeaders,
    /// Phase 2.
    RequestBody,
    /// Phase 3.
    ResponseHeaders,
    /// Phase 4.
    ResponseBody,
    /// Phase 5.
    Logging,
}

impl Phase {
    pub(crate) const ALL: [Self; 5] =
        [Self::RequestHeaders, Self::RequestBody, Self::ResponseHeaders, Self::ResponseBody, Self::Logging];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::RequestHeaders => 0,
            Self::RequestBody => 1,
            Self::ResponseHeaders => 2,
            Self::ResponseBody => 3,
            Self::Logging => 4,
        }
    }

    /// The number that rules use, from one.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::RequestHeaders => 1,
            Self::RequestBody => 2,
            Self::ResponseHeaders => 3,
            Self::ResponseBody => 4,
            Self::Logging => 5,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "1" => Self::RequestHeaders,
            "2" | "request" => Self::RequestBody,
            "3" => Self::ResponseHeaders,
            "4" | "response" => Self::ResponseBody,
            "5" | "logging" => Self::Logging,
            _ => return None,
        })
    }
}

/// How bad a match is; the number is the one of syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Severity {
    Emergency,
    Alert,
    Critical,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

impl Severity {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Emergency, "EMERGENCY"),
        (Self::Alert, "ALERT"),
        (Self::Critical, "CRITICAL"),
        (Self::Error, "ERROR"),
        (Self::Warning, "WARNING"),
        (Self::Notice, "NOTICE"),
        (Self::Info, "INFO"),
        (Self::Debug, "DEBUG"),
    ];

    /// The name as rules write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(severity, _)| *severity == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn number(self) -> u8 {
        (0u8..).zip(Self::ALL).find(|(_, (severity, _))| *severity == self).map_or(0, |(number, _)| number)
    }

    fn parse(text: &str) -> Option<Self> {
        (0u8..)
            .zip(Self::ALL)
            .find(|(number, (_, name))| name.eq_ignore_ascii_case(text) || number.to_string() == text)
            .map(|(_, (severity, _))| severity)
    }
}

/// What a matching rule does to the transaction.
#[derive(Debug, Clone)]
pub(crate) enum Disruptive {
    /// What `SecDefaultAction` says.
    Block,
    Pass,
    Deny,
    Drop,
    Redirect(Template),
    Allow(Allowed),
}

/// How much `allow` spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    Phase,
    Request,
    Everything,
}

/// What a match changes, in the order written.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    SetVar(SetVar),
    /// Seconds after which a persistent member ends.
    ExpireVar {
        variable: Variable,
        member: Template,
        seconds: Template,
    },
    InitCollection {
        variable: Variable,
        key: Template,
    },
    SetEnv {
        name: Template,
        value: Template,
    },
    Control(Control),
}

#[derive(Debug, Clone)]
pub(crate) struct SetVar {
    pub(crate) variable: Variable,
    pub(crate) member: Template,
    /// Where a member of TX with a fixed name is kept, once all rules are known.
    pub(crate) slot: Option<Slot>,
    pub(crate) change: Change,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Set(Template),
    Add(Template),
    Subtract(Template),
    Remove,
}

/// Which rules an exclusion means.
#[derive(Debug, Clone)]
pub(crate) enum RuleSelector {
    /// Inclusive ranges of ids.
    Ids(Vec<(u32, u32)>),
    Tag(Box<str>),
    Message(Box<str>),
}

/// Changes to the engine for the rest of one transaction.
#[derive(Debug, Clone)]
pub(crate) enum Control {
    AuditEngine(AuditMode),
    Engine(EngineMode),
    ForceRequestBody(Switch),
    RequestBodyAccess(Switch),
    ResponseBodyAccess(Switch),
    RequestBodyLimit(usize),
    ResponseBodyLimit(usize),
    BodyProcessor(Processor),
    RemoveRules(RuleSelector),
    RemoveTarget(RuleSelector, Target),
    /// Parts of an audit log that is written elsewhere, and debug levels.
    Nothing,
}

/// Whether rules act, only log, or do not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineMode {
    /// Rules run and act.
    On,
    /// Rules run and are logged; nothing is refused.
    DetectionOnly,
    /// No rule runs.
    Off,
}

impl EngineMode {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "on" => Self::On,
            "off" => Self::Off,
            "detectiononly" => Self::DetectionOnly,
            _ => return None,
        })
    }
}

/// Which transactions are worth an audit line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// All.
    On,
    /// None.
    Off,
    /// Those that matched or whose status is relevant.
    RelevantOnly,
}

impl AuditMode {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "on" => Self::On,
            "off" => Self::Off,
            "relevantonly" => Self::RelevantOnly,
            _ => return None,
        })
    }
}

/// How a request body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processor {
    UrlEncoded,
    Multipart,
    Json,
    Xml,
    /// Not known to ModSecurity; chosen by content type.
    GraphQl,
    Grpc,
}

impl Processor {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UrlEncoded => "URLENCODED",
            Self::Multipart => "MULTIPART",
            Self::Json => "JSON",
            Self::Xml => "XML",
            Self::GraphQl => "GRAPHQL",
            Self::Grpc => "GRPC",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::UrlEncoded, Self::Multipart, Self::Json, Self::Xml, Self::GraphQl, Self::Grpc]
            .into_iter()
            .find(|processor| processor.name().eq_ignore_ascii_case(text))
    }
}

/// Reads a whole list; every action that cannot be accepted is an error of its own.
pub(crate) fn parse_list(text: &str) -> (Vec<Action>, Vec<String>) {
    let (mut actions, mut errors) = (Vec::new(), Vec::new());
    for item in split(text) {
        match parse_item(item) {
            Ok(action) => actions.push(action),
            Err(error) => errors.push(error),
        }
    }
    (actions, errors)
}

/// Splits at commas outside single quotes.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            ',' if !quoted => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn parse_item(item: &str) -> Result<Action, String> {
    let (name, value) = match item.split_once(':') {
        Some((name, value)) => (name.trim(), Some(unquote(value.trim()))),
        None => (item, None),
    };
    let lower = name.to_ascii_lowercase();
    match value {
        None => bare(&lower).ok_or_else(|| match with_value(&lower, "") {
            Ok(None) => format!("action \"{name}\" is not known or not supported"),
            Ok(Some(_)) | Err(_) => format!("action \"{name}\" needs a value ({name}:...)"),
        }),
        Some(value) => with_value(&lower, &value)
            .map_err(|error| format!("action {name}:{value}: {error}"))?
            .ok_or_else(|| format!("action \"{name}\" is not known or not supported")),
    }
}

fn unquote(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value);
    inner.replace("\\'", "'")
}

fn bare(name: &str) -> Option<Action> {
    Some(match name {
        "allow" => Action::Disruptive(Disruptive::Allow(Allowed::Everything)),
        "auditlog" => Action::AuditLog(Switch::On),
        "block" => Action::Disruptive(Disruptive::Block),
        "capture" => Action::Capture,
        "chain" => Action::Chain,
        "deny" => Action::Disruptive(Disruptive::Deny),
        "drop" => Action::Disruptive(Disruptive::Drop),
        "log" => Action::Log(Switch::On),
        "multimatch" => Action::MultiMatch,
        "noauditlog" => Action::AuditLog(Switch::Off),
        "nolog" => Action::Log(Switch::Off),
        "pass" => Action::Disruptive(Disruptive::Pass),
        _ => return None,
    })
}

fn with_value(name: &str, value: &str) -> Result<Option<Action>, String> {
    let template = || Template::parse(value);
    Ok(Some(match name {
        "accuracy" => Action::Accuracy(number(value)?),
        "allow" => Action::Disruptive(Disruptive::Allow(match value.to_ascii_lowercase().as_str() {
            "phase" => Allowed::Phase,
            "request" => Allowed::Request,
            _ => return Err("expected phase or request".to_owned()),
        })),
        "ctl" => Action::Effect(Effect::Control(control(value)?)),
        "expirevar" => Action::Effect(expire_var(value)?),
        "id" => Action::Id(number(value)?),
        "initcol" => Action::Effect(init_collection(value)?),
        "logdata" => Action::LogData(template()?),
        "maturity" => Action::Maturity(number(value)?),
        "msg" => Action::Message(template()?),
        "phase" => Action::Phase(Phase::parse(value).ok_or("expected 1 to 5, request, response or logging")?),
        "redirect" => Action::Disruptive(Disruptive::Redirect(template()?)),
        "rev" => Action::Revision(value.into()),
        "setenv" => {
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            Action::Effect(Effect::SetEnv { name: Template::parse(name)?, value: Template::parse(value)? })
        }
        "setrsc" => Action::Effect(Effect::InitCollection { variable: Variable::Resource, key: template()? }),
        "setsid" => Action::Effect(Effect::InitCollection { variable: Variable::Session, key: template()? }),
        "setuid" => Action::Effect(Effect::InitCollection { variable: Variable::User, key: template()? }),
        "setvar" => Action::Effect(Effect::SetVar(set_var(value)?)),
        "severity" => Action::Severity(Severity::parse(value).ok_or("expected EMERGENCY to DEBUG, or 0 to 7")?),
        "skip" => Action::Skip(number(value)?),
        "skipafter" => Action::SkipAfter(value.into()),
        "status" => Action::Status(number(value)?),
        "t" if value.eq_ignore_ascii_case("none") => Action::ForgetTransforms,
        "t" => Action::Transform(Transform::parse(value).ok_or("the transformation is not known")?),
        "tag" => Action::Tag(value.into()),
        "ver" => Action::Version(value.into()),
        _ => return Ok(None),
    }))
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.trim().parse().map_err(|_| "expected a number in range".to_owned())
}

fn collection(name: &str) -> Result<Variable, String> {
    match Variable::parse(name) {
        Some(
            variable @ (Variable::Global | Variable::Ip | Variable::Resource | Variable::Session | Variable::User),
        ) => Ok(variable),
        Some(_) | None => {
            Err(format!("\"{name}\" is not a persistent collection (global, ip, resource, session, user)"))
        }
    }
}

fn settable(name: &str) -> Result<Variable, String> {
    if name.eq_ignore_ascii_case("tx") { Ok(Variable::Tx) } else { collection(name) }
}

fn set_var(value: &str) -> Result<SetVar, String> {
    let (removal, value) = match value.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (left, right) = match value.split_once('=') {
        Some((left, right)) => (left, Some(right)),
        None => (value, None),
    };
    let (variable, member) = left.split_once('.').ok_or("expected collection.name=value")?;
    let change = match right {
        _ if removal => Change::Remove,
        None => Change::Set(Template::parse("1")?),
        Some(right) => match (right.strip_prefix('+'), right.strip_prefix('-')) {
            (Some(amount), _) => Change::Add(Template::parse(amount)?),
            (_, Some(amount)) => Change::Subtract(Template::parse(amount)?),
            (None, None) => Change::Set(Template::parse(right)?),
        },
    };
    Ok(SetVar { variable: settable(variable.trim())?, member: Template::parse(member)?, slot: None, change })
}

fn expire_var(value: &str) -> Result<Effect, String> {
    let (left, seconds) = value.split_once('=').ok_or("expected collection.name=seconds")?;
    let (variable, member) = left.split_once('.').ok_or("expected collection.name=seconds")?;
    Ok(Effect::ExpireVar {
        variable: settable(variable.trim())?,
        member: Template::parse(member)?,
        seconds: Template::parse(seconds)?,
    })
}

fn init_collection(value: &str) -> Result<Effect, String> {
    let (variable, key) = value.split_once('=').ok_or("expected collection=key")?;
    Ok(Effect::InitCollection { variable: collection(variable.trim())?, key: Template::parse(key)? })
}

fn switch(value: &str) -> Result<Switch, String> {
    match value.to_ascii_lowercase().as_str() {
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        _ => Err("expected On or Off".to_owned()),
    }
}

fn control(text: &str) -> Result<Control, String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    let value = value.trim();
    let targeted = |selector: fn(&str) -> Result<RuleSelector, String>| {
        let (rules, target) = value.split_once(';').ok_or("expected rules;TARGET")?;
        Ok::<_, String>(Control::RemoveTarget(selector(rules)?, parse_target(target.trim())?))
    };
    Ok(match name.trim().to_ascii_lowercase().as_str() {
        "auditengine" => Control::AuditEngine(AuditMode::parse(value).ok_or("expected On, Off or RelevantOnly")?),
        "auditlogparts" | "debugloglevel" => Control::Nothing,
        "forcerequestbodyvariable" => Control::ForceRequestBody(switch(value)?),
        "requestbodyaccess" => Control::RequestBodyAccess(switch(value)?),
        "requestbodylimit" => Control::RequestBodyLimit(number(value)?),
        "requestbodyprocessor" => Control::BodyProcessor(
            Processor::parse(value).ok_or("expected URLENCODED, MULTIPART, JSON, XML, GRAPHQL or GRPC")?,
        ),
        "responsebodyaccess" => Control::ResponseBodyAccess(switch(value)?),
        "responsebodylimit" => Control::ResponseBodyLimit(number(value)?),
        "ruleengine" => Control::Engine(EngineMode::parse(value).ok_or("expected On, Off or DetectionOnly")?),
        "ruleremovebyid" => Control::RemoveRules(ids(value)?),
        "ruleremovebymsg" => Control::RemoveRules(by_message(value)?),
        "ruleremovebytag" => Control::RemoveRules(by_tag(value)?),
        "ruleremovetargetbyid" => targeted(ids)?,
        "ruleremovetargetbymsg" => targeted(by_message)?,
        "ruleremovetargetbytag" => targeted(by_tag)?,
        _ => return Err("this control is not known or not supported".to_owned()),
    })
}

#[allow(clippy::unnecessary_wraps, reason = "one of three readers with the same signature")]
pub(crate) fn by_tag(text: &str) -> Result<RuleSelector, String> {
    Ok(RuleSelector::Tag(text.trim().into()))
}

#[allow(clippy::unnecessary_wraps, reason = "one of three readers with the same signature")]
pub(crate) fn by_message(text: &str) -> Result<RuleSelector, String> {
    Ok(RuleSelector::Message(text.trim().into()))
}

/// `1,5-9 20`: ids and ranges.
pub(crate) fn ids(text: &str) -> Result<RuleSelector, String> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (number(low)?, number(high)?);
        if low > high { Err(format!("range {part} ends before it begins")) } else { Ok((low, high)) }
    };
    text.split([',', ' ']).filter(|part| !part.is_empty()).map(range).collect::<Result<_, _>>().map(RuleSelector::Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(text: &str, expected: &str) {
        assert_eq!(parse_list(text).1, [expected]);
    }

    #[test]
    fn a_list_is_split_outside_quotes() {
        assert_eq!(split("id:1,msg:'a, b',  t:none"), ["id:1", "msg:'a, b'", "t:none"]);
        assert_eq!(split(r"msg:'it\'s, so',pass"), [r"msg:'it\'s, so'", "pass"]);
        let (actions, errors) =
            parse_list("id:7,phase:request,block,setvar:'tx.a_%{tx.0}=+%{tx.b}',ctl:ruleRemoveById=1-5");
        assert_eq!((actions.len(), errors.len()), (5, 0));
    }

    #[test]
    fn what_is_unknown_is_refused_each_by_name() {
        refuses("frobnicate", "action \"frobnicate\" is not known or not supported");
        refuses("exec:/bin/x", "action \"exec\" is not known or not supported");
        refuses("msg", "action \"msg\" needs a value (msg:...)");
        refuses("t:rot13", "action t:rot13: the transformation is not known");
        refuses("phase:6", "action phase:6: expected 1 to 5, request, response or logging");
        refuses("ctl:x=1", "action ctl:x=1: this control is not known or not supported");
        refuses("severity:9", "action severity:9: expected EMERGENCY to DEBUG, or 0 to 7");
        refuses("ctl:ruleRemoveById=9-2", "action ctl:ruleRemoveById=9-2: range 9-2 ends before it begins");
        assert_eq!(parse_list("foo,bar,pass").1.len(), 2);
    }
}
