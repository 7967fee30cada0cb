//! What has to be run for a capture, step by step, and what undoes it: as data, which is printed or carried out.

use crate::{Checked, Family, capture::TABLE, capture::TPROXY_MARK};
use std::fmt::Write;

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Both families in one table of our own.
    Nft,
    /// Chains of our own, by family.
    Iptables,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureStep {
    pub program: &'static str,
    pub arguments: Vec<String>,
    /// For its standard input.
    pub input: Option<String>,
    pub outcome: CaptureOutcome,
}

/// What is expected of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureOutcome {
    Must,
    /// It undoes what may not be there.
    May,
    /// The same, of which there may be several.
    WhileItWorks,
}

impl CaptureStep {
    fn new(outcome: CaptureOutcome, command: &str, input: Option<String>) -> Self {
        let mut words = command.split(' ').map(str::to_owned);
        let program = match words.next().as_deref() {
            Some("nft") => "nft",
            Some("iptables") => "iptables",
            Some("ip6tables") => "ip6tables",
            Some("iptables-restore") => "iptables-restore",
            Some("ip6tables-restore") => "ip6tables-restore",
            _ => "ip",
        };
        Self { program, arguments: words.collect(), input, outcome }
    }

    /// For a shell.
    pub fn script(&self) -> String {
        let mut line = self.program.to_owned();
        for argument in &self.arguments {
            let _ = write!(line, " {argument}");
        }
        match (&self.input, self.outcome) {
            (Some(input), _) => format!("{line} <<'RULES'\n{input}RULES\n"),
            (None, CaptureOutcome::Must) => line + "\n",
            (None, CaptureOutcome::May) => line + " 2>/dev/null || true\n",
            (None, CaptureOutcome::WhileItWorks) => format!("while {line} 2>/dev/null; do :; done\n"),
        }
    }
}

impl Checked<'_> {
    /// Run twice, it leaves what it left the first time: what was there is undone first.
    pub fn apply(self, filter: Filter, families: &[Family]) -> Vec<CaptureStep> {
        let mut steps = match filter {
            // Its text begins with the removal of the table, in one transaction: no packet passes in between.
            Filter::Nft => vec![CaptureStep::new(CaptureOutcome::Must, "nft -f -", Some(self.nft(families)))],
            Filter::Iptables => {
                let mut steps = remove_iptables(families);
                for family in families {
                    let program = format!("{}-restore --noflush", iptables(*family));
                    steps.push(CaptureStep::new(CaptureOutcome::Must, &program, Some(self.iptables(*family))));
                }
                steps
            }
        };
        for family in families {
            steps.extend(remove_routes(*family));
            steps.extend(
                self.routes(*family).iter().map(|command| CaptureStep::new(CaptureOutcome::Must, command, None)),
            );
        }
        steps
    }
}

/// Undoes any capture: of either method, whatever its ports.
pub fn remove_capture(filter: Filter, families: &[Family]) -> Vec<CaptureStep> {
    let mut steps = match filter {
        Filter::Nft => {
            let text = "table inet portcullis\ndelete table inet portcullis\n".to_owned();
            vec![CaptureStep::new(CaptureOutcome::Must, "nft -f -", Some(text))]
        }
        Filter::Iptables => remove_iptables(families),
    };
    steps.extend(families.iter().flat_map(|family| remove_routes(*family)));
    steps
}

fn remove_iptables(families: &[Family]) -> Vec<CaptureStep> {
    let mut steps = Vec::new();
    for family in families {
        let program = iptables(*family);
        for table in ["nat", "mangle"] {
            for (hook, chain) in [("PREROUTING", "PORTCULLIS_IN"), ("OUTPUT", "PORTCULLIS_OUT")] {
                let jump = format!("{program} -t {table} -D {hook} -j {chain}");
                steps.push(CaptureStep::new(CaptureOutcome::WhileItWorks, &jump, None));
                for what in ["-F", "-X"] {
                    let chain = format!("{program} -t {table} {what} {chain}");
                    steps.push(CaptureStep::new(CaptureOutcome::May, &chain, None));
                }
            }
        }
    }
    steps
}

fn remove_routes(family: Family) -> [CaptureStep; 2] {
    let ip = match family {
        Family::V4 => "ip -4",
        Family::V6 => "ip -6",
    };
    [
        CaptureStep::new(
            CaptureOutcome::WhileItWorks,
            &format!("{ip} rule del fwmark {TPROXY_MARK:#x} lookup {TABLE}"),
            None,
        ),
        CaptureStep::new(CaptureOutcome::May, &format!("{ip} route flush table {TABLE}"), None),
    ]
}

fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capture, Exclusion, Method};

    #[test]
    fn everything_that_is_made_is_undone_first_and_can_be_undone() {
        let mut capture = Capture {
            method: Method::Tproxy,
            inbound: Some(15006),
            outbound: Some(15001),
            dns: None,
            exclusion: Exclusion::Mark(7),
            except_inbound_ports: [].into(),
            except_outbound_ports: [].into(),
        };
        let script = |capture: &Capture, filter| {
            let steps = capture.checked().unwrap().apply(filter, &[Family::V4]);
            steps.iter().map(CaptureStep::script).collect::<String>()
        };
        let nft = script(&capture, Filter::Nft);
        assert!(nft.starts_with("nft -f - <<'RULES'\ntable inet portcullis\ndelete table inet portcullis\n"), "{nft}");
        let del = nft.find("while ip -4 rule del fwmark 0x539 lookup 133 2>/dev/null; do :; done").unwrap();
        assert!(del < nft.find("ip -4 rule add fwmark 0x539 lookup 133\n").unwrap() && !nft.contains("ip -6"), "{nft}");
        let tables = script(&capture, Filter::Iptables);
        let del = tables.find("while iptables -t mangle -D PREROUTING -j PORTCULLIS_IN").unwrap();
        assert!(del < tables.find("iptables-restore --noflush <<'RULES'\n").unwrap(), "{tables}");
        capture.method = Method::Redirect;
        assert!(!script(&capture, Filter::Nft).contains("rule add"));
        let undo: String = remove_capture(Filter::Iptables, &[Family::V6]).iter().map(CaptureStep::script).collect();
        assert!(undo.contains("ip6tables -t nat -X PORTCULLIS_OUT 2>/dev/null || true\n"), "{undo}");
    }
}
