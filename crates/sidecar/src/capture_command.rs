//! `capture print|apply|remove`: the words of the command, and the running of its steps.

use crate::control_group::{ByNft, NoControlGroup, find};
use clap::{Args, Subcommand, ValueEnum};
use portcullis_mesh::{
    Capture, CaptureOutcome, CaptureStep, Exclusion, Family, Filter, Method, NoCapture, remove_capture,
};
use std::{
    io::Write,
    process::{Command, Stdio},
};

#[derive(Debug, Subcommand)]
pub enum CaptureCommand {
    /// Print what `apply` would run, as a shell script.
    Print(CaptureArguments),
    /// Lead this network namespace's connections to the sidecar. Needs CAP_NET_ADMIN. Run twice, it leaves what it left once.
    Apply(CaptureArguments),
    /// Undo it.
    Remove {
        #[command(flatten)]
        tool: Tool,
    },
}

#[derive(Debug, Args)]
pub struct Tool {
    #[arg(long = "tool", value_enum, default_value_t = FilterWord::Nft)]
    filter: FilterWord,
    #[arg(long, value_enum, default_value_t = FamilyWord::Both)]
    family: FamilyWord,
}

#[derive(Debug, Args)]
pub struct CaptureArguments {
    #[command(flatten)]
    tool: Tool,
    #[arg(long, value_enum, default_value_t = MethodWord::Redirect)]
    method: MethodWord,
    /// The port of the listener for what comes in.
    #[arg(long)]
    inbound: Option<u16>,
    /// The port of the listener for what goes out.
    #[arg(long)]
    outbound: Option<u16>,
    /// The port on which the sidecar answers DNS.
    #[arg(long)]
    dns: Option<u16>,
    #[command(flatten)]
    own: Own,
    /// Ports of this machine that are left alone.
    #[arg(long, value_delimiter = ',')]
    except_inbound: Vec<u16>,
    /// Ports elsewhere that are left alone.
    #[arg(long, value_delimiter = ',')]
    except_outbound: Vec<u16>,
}

/// How the sidecar's own packets are told apart. Of several the safest counts: the mark, then the control group.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Own {
    /// `workload.mark`: nobody can set it without CAP_NET_ADMIN.
    #[arg(long, value_parser = mark)]
    mark: Option<u32>,
    /// A path below the root of the unified hierarchy, like system.slice/mesh-proxy.service.
    #[arg(long)]
    cgroup: Option<String>,
    /// The last resort: an application that can be this user is not captured.
    #[arg(long)]
    uid: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FilterWord {
    Nft,
    Iptables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FamilyWord {
    Both,
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodWord {
    Redirect,
    Tproxy,
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureFailed {
    #[error(transparent)]
    NoCapture(#[from] NoCapture),
    #[error(transparent)]
    NoControlGroup(#[from] NoControlGroup),
    #[error("`{program}` cannot be started: {source}{}", way_out(program))]
    Start { program: &'static str, source: std::io::Error },
    #[error("`{command}` failed: {said} (CAP_NET_ADMIN is needed; without IPv6 say --family v4)")]
    Step { command: String, said: String },
    #[error("cannot print: {0}")]
    Print(std::io::Error),
}

/// A table that is never empty is no reason to turn for ever.
const REMOVALS_MAX: usize = 64;

pub fn capture(what: &CaptureCommand) -> Result<(), CaptureFailed> {
    match what {
        CaptureCommand::Print(arguments) => {
            let script: String = arguments.steps()?.iter().map(CaptureStep::script).collect();
            std::io::stdout().write_all(script.as_bytes()).map_err(CaptureFailed::Print)
        }
        CaptureCommand::Apply(arguments) => {
            let steps = arguments.steps()?;
            arguments.can_be_told_apart()?;
            steps.iter().try_for_each(run)
        }
        CaptureCommand::Remove { tool } => {
            remove_capture(tool.filter.filter(), tool.family.families()).iter().try_for_each(run)
        }
    }
}

impl CaptureArguments {
    fn exclusion(&self) -> Exclusion {
        match (&self.own.mark, &self.own.cgroup, self.own.uid) {
            (Some(mark), _, _) => Exclusion::Mark(*mark),
            (None, Some(path), _) => Exclusion::Cgroup(path.clone()),
            // The group above is never empty.
            (None, None, uid) => Exclusion::Uid(uid.unwrap_or_default()),
        }
    }

    /// Before anything is changed: a rule that the kernel takes for none would lead the sidecar's own packets back to it.
    fn can_be_told_apart(&self) -> Result<(), NoControlGroup> {
        let Exclusion::Cgroup(path) = self.exclusion() else { return Ok(()) };
        let by_nft = if self.tool.filter == FilterWord::Nft { ByNft::Yes } else { ByNft::No };
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        find(&path, by_nft, &mounts, |group| group.is_dir())
    }

    fn steps(&self) -> Result<Vec<CaptureStep>, NoCapture> {
        let exclusion = self.exclusion();
        let capture = Capture {
            method: match self.method {
                MethodWord::Redirect => Method::Redirect,
                MethodWord::Tproxy => Method::Tproxy,
            },
            inbound: self.inbound,
            outbound: self.outbound,
            dns: self.dns,
            exclusion,
            except_inbound_ports: self.except_inbound.iter().copied().collect(),
            except_outbound_ports: self.except_outbound.iter().copied().collect(),
        };
        Ok(capture.checked()?.apply(self.tool.filter.filter(), self.tool.family.families()))
    }
}

impl FilterWord {
    fn filter(self) -> Filter {
        match self {
            Self::Nft => Filter::Nft,
            Self::Iptables => Filter::Iptables,
        }
    }
}

impl FamilyWord {
    fn families(self) -> &'static [Family] {
        match self {
            Self::Both => &[Family::V4, Family::V6],
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
        }
    }
}

fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    parsed.filter(|mark| *mark != 0).ok_or_else(|| format!("`{text}` is no mark: a number like 0x29a"))
}

fn run(step: &CaptureStep) -> Result<(), CaptureFailed> {
    match step.outcome {
        CaptureOutcome::Must => {
            let (worked, said) = start(step)?;
            let command = || format!("{} {}", step.program, step.arguments.join(" "));
            if worked { Ok(()) } else { Err(CaptureFailed::Step { command: command(), said }) }
        }
        CaptureOutcome::May => start(step).map(drop),
        CaptureOutcome::WhileItWorks => {
            for _ in 0..REMOVALS_MAX {
                if !start(step)?.0 {
                    break;
                }
            }
            Ok(())
        }
    }
}

/// Whether it worked, and what it said.
fn start(step: &CaptureStep) -> Result<(bool, String), CaptureFailed> {
    let failed = |source| CaptureFailed::Start { program: step.program, source };
    // A service's PATH may be without the folders of administration.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(step.program)
        .args(&step.arguments)
        .env("PATH", path)
        .stdin(if step.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), &step.input) {
        // A program that ended before it read tells why by itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect();
    Ok((output.status.success(), said))
}

fn way_out(program: &str) -> &'static str {
    match program {
        "nft" => "; install nftables, or say --tool iptables",
        "ip" => "; install iproute2",
        _ => "; install iptables, or say --tool nft",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        what: CaptureCommand,
    }

    fn script(line: &str) -> Result<String, String> {
        let words = ["x", "print"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let CaptureCommand::Print(arguments) = parsed.what else { return Err("not print".to_owned()) };
        let steps = arguments.steps().map_err(|error| error.to_string())?;
        Ok(steps.iter().map(CaptureStep::script).collect())
    }

    #[test]
    fn every_word_of_the_command_changes_the_rules() {
        for (line, words) in [
            ("--outbound 15001 --mark 0x29a", "meta mark 0x29a return"),
            ("--outbound 15001 --mark 666", "meta mark 0x29a return"),
            ("--outbound 15001 --cgroup a/b.service", "socket cgroupv2 level 2 \"a/b.service\" return"),
            ("--outbound 15001 --uid 7", "meta skuid 7 return"),
            // The safest of those that are given.
            ("--outbound 15001 --uid 7 --cgroup a/b --mark 9", "    meta mark 0x9 return"),
            ("--outbound 15001 --uid 7 --cgroup a/b", "socket cgroupv2 level 2 \"a/b\" return"),
            ("--outbound 15001 --mark 9 --except-outbound 22,53", "tcp dport { 22, 53 } return"),
            ("--inbound 15006 --mark 9 --except-inbound 22", "tcp dport { 22, 15006 } return"),
            ("--inbound 15006 --mark 9", "redirect to :15006"),
            ("--inbound 15006 --mark 9 --method tproxy", "tproxy to :15006"),
            ("--outbound 15001 --mark 9 --method tproxy", "ip -6 rule add fwmark"),
            ("--dns 15053 --mark 9", "th dport 53 redirect to :15053"),
            ("--inbound 15006 --mark 9 --tool iptables", "ip6tables-restore --noflush"),
            ("--inbound 15006 --mark 9 --family v4", "meta nfproto != ipv4 return"),
            ("--inbound 15006 --mark 9 --family v6", "meta nfproto != ipv6 return"),
        ] {
            let script = script(line).unwrap();
            assert!(script.contains(words), "{line}\n{script}");
        }
        for (line, words) in [
            ("--outbound 15001", "required"),
            ("--mark 9", "nothing would be captured"),
            ("--outbound 15001 --mark 0", "is no mark"),
            ("--outbound 15001 --cgroup /x", "no control group"),
            ("--outbound 1 --inbound 1 --mark 9", "the same port"),
        ] {
            assert!(script(line).unwrap_err().contains(words), "{line}");
        }
        assert!(!script("--inbound 15006 --mark 9 --tool iptables --family v4").unwrap().contains("ip6tables"));
    }
}
