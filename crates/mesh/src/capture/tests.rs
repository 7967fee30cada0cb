//! The rules as text, and as the kernel's own tools read them.

use super::*;
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

fn capture(method: Method, exclusion: Exclusion) -> Capture {
    Capture {
        method,
        inbound: Some(15006),
        outbound: Some(15001),
        dns: Some(15053),
        exclusion,
        except_inbound_ports: [22].into(),
        except_outbound_ports: [53, 9090].into(),
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let good = capture(Method::Redirect, Exclusion::Mark(1));
    assert!(good.checked().is_ok());
    let with = |edit: &dyn Fn(&mut Capture)| {
        let mut capture = good.clone();
        edit(&mut capture);
        capture.checked().map(drop)
    };
    assert_eq!(with(&|c| (c.inbound, c.outbound, c.dns) = (None, None, None)), Err(NoCapture::Nothing));
    assert_eq!(with(&|c| c.inbound = Some(15001)), Err(NoCapture::SamePort(15001)));
    assert_eq!(with(&|c| c.exclusion = Exclusion::Mark(TPROXY_MARK)), Err(NoCapture::OwnMark(TPROXY_MARK)));
    for bad in ["", "/x", "x/", "a b", "a/../b", "x\n-j ACCEPT", "x\"", "x;y"] {
        assert!(with(&|c| c.exclusion = Exclusion::Cgroup(bad.to_owned())).is_err(), "{bad}");
    }
}

#[test]
fn the_sidecars_own_packets_are_let_go_before_anything_is_captured() {
    for exclusion in
        [Exclusion::Mark(0x77), Exclusion::Cgroup("system.slice/x.service".to_owned()), Exclusion::Uid(2102)]
    {
        for method in [Method::Redirect, Method::Tproxy] {
            let capture = capture(method, exclusion.clone());
            let rules = capture.checked().unwrap().iptables(Family::V4);
            let out: Vec<_> = rules.lines().filter(|line| line.starts_with("-A PORTCULLIS_OUT")).collect();
            let own = match &exclusion {
                Exclusion::Mark(_) => "--mark 0x77",
                Exclusion::Cgroup(_) => "--path system.slice/x.service",
                Exclusion::Uid(_) => "--uid-owner 2102",
            };
            assert!(out[0].contains(own) && out[0].ends_with("-j RETURN"), "{rules}");
            let last = out.last().unwrap();
            assert!(
                !last.contains("RETURN") && out.iter().any(|line| line.contains("--dport 9090 -j RETURN")),
                "{rules}"
            );
            let nft = capture.checked().unwrap().nft(&[Family::V4, Family::V6]);
            let chain = nft.split("chain output").nth(1).unwrap();
            assert!(chain.find("return").unwrap() < chain.rfind("tcp").unwrap(), "{nft}");
        }
    }
}

#[test]
fn only_what_is_asked_for_is_captured() {
    let mut one_way = capture(Method::Redirect, Exclusion::Mark(1));
    (one_way.outbound, one_way.dns) = (None, None);
    let (rules, nft) =
        (one_way.checked().unwrap().iptables(Family::V4), one_way.checked().unwrap().nft(&[Family::V4, Family::V6]));
    assert!(
        !rules.contains("-A OUTPUT") && rules.contains("-A PREROUTING") && !nft.contains("chain output"),
        "{rules}"
    );
    assert!(one_way.checked().unwrap().routes(Family::V4).is_empty());
    let transparent = capture(Method::Tproxy, Exclusion::Mark(1));
    assert_eq!(
        transparent.checked().unwrap().routes(Family::V6),
        ["ip -6 rule add fwmark 0x539 lookup 133", "ip -6 route replace local ::/0 dev lo table 133"]
    );
}

/// What `program` says to `text`, in a network namespace of its own. `None`, said aloud: not installed or not permitted.
fn judged(program: &str, arguments: &str, text: &str) -> Option<(bool, String)> {
    let run = |command: &str, input: &str| {
        let mut child = Command::new("unshare")
            .args(["-Urn", "sh", "-c", &format!("PATH=$PATH:/usr/sbin:/sbin {command}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(input.as_bytes()).ok()?;
        let output = child.wait_with_output().ok()?;
        Some((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    };
    let (works, why) = run(&format!("{program} {arguments}"), if program == "nft" { "" } else { "*nat\nCOMMIT\n" })
        .unwrap_or((false, "unshare is not installed".to_owned()));
    if !works {
        eprintln!("NOT CHECKED: `{program}` cannot be used here: {why}");
        return None;
    }
    run(&format!("{program} {arguments}"), text)
}

#[test]
fn nft_and_iptables_take_every_variant() {
    for method in [Method::Redirect, Method::Tproxy] {
        for exclusion in [Exclusion::Mark(0x77), Exclusion::Uid(0)] {
            let capture = capture(method, exclusion);
            let rules = capture.checked().unwrap();
            for (program, arguments, text) in [
                ("nft", "-c -f -", rules.nft(&[Family::V4, Family::V6])),
                ("iptables-restore", "--test --noflush", rules.iptables(Family::V4)),
                ("ip6tables-restore", "--test --noflush", rules.iptables(Family::V6)),
            ] {
                if let Some((good, why)) = judged(program, arguments, &text) {
                    assert!(good, "{program}: {why}\n{text}");
                }
            }
        }
    }
}
