//! The tests of the suite that this engine does not pass, each with the reason. Whoever adds one must be able to say why.

/// Test and reason.
pub(crate) const OVERRIDES: [(&str, &str); 4] = [
    (
        "920181-1",
        "written for Apache, which removes Content-Length beside Transfer-Encoding; here the front end refuses both",
    ),
    (
        "920620-1",
        "written for Apache, which joins two Content-Type headers into one; here the rule sees two, as it should",
    ),
    ("921140-1", "expects the front end to answer 400 before the rules; fed directly, the rule finds the line break"),
    (
        "934210-13",
        "needs the text of a JSON document in REQUEST_BODY; with it thirty tests for the absence of that fail (944100 and kin)",
    ),
];

/// Tests that expect 400 of the server before any rule runs. The whole program's own tests send them to it
/// (`tests/it/waf_front_end.rs`): 18 get it; 920280-3, 920430-3 and 920430-9 speak HTTP/0.9 and 0.8 and get 505, which says
/// more (RFC 9110 §15.6.6), and are overrides like those above. Sorted.
pub(crate) const FRONT_END: [&str; 21] = [
    "920100-11",
    "920100-12",
    "920100-13",
    "920100-15",
    "920100-2",
    "920100-5",
    "920100-8",
    "920160-1",
    "920160-2",
    "920160-3",
    "920160-5",
    "920270-4",
    "920274-1",
    "920280-3",
    "920290-1",
    "920430-10",
    "920430-3",
    "920430-6",
    "920430-7",
    "920430-9",
    "920610-2",
];

/// Why a failure, named at the beginning of its message, is expected.
pub(crate) fn reason(failure: &str) -> Option<&'static str> {
    let (name, _) = failure.split_once(':')?;
    OVERRIDES.iter().find(|(known, _)| *known == name).map(|(_, reason)| *reason)
}
