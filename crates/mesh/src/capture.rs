//! Which packets go through the sidecar: rules for iptables-restore and nft, as text. Applying them is the caller's.
//!
//! The sidecar's own packets are told apart by their mark or control group, and only for want of those by user: an
//! application can take a user id that it is given, but neither mark without CAP_NET_ADMIN nor group without its manager.

use std::{collections::BTreeSet, fmt::Write, net::IpAddr};

/// How connections are turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// NAT; the original destination is asked of the kernel. Needs no privilege at run time.
    Redirect,
    /// Addresses stay; needs CAP_NET_ADMIN and the routes of [`Capture::routes`].
    Tproxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What the sidecar's own packets carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exclusion {
    Mark(u32),
    /// A path below the root of the unified hierarchy, like `system.slice/sidecar.service`.
    Cgroup(String),
    Uid(u32),
}

/// What is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    pub method: Method,
    /// Where the sidecar listens for what comes in; `None` leaves that way alone.
    pub inbound: Option<u16>,
    pub outbound: Option<u16>,
    /// Where the sidecar answers DNS; `None` leaves questions alone.
    pub dns: Option<u16>,
    /// The first that can be had is the safest; see the module's head.
    pub exclusion: Exclusion,
    pub except_inbound_ports: BTreeSet<u16>,
    pub except_outbound_ports: BTreeSet<u16>,
}

/// Why a capture cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCapture {
    #[error("neither inbound nor outbound nor dns has a port: nothing would be captured")]
    Nothing,
    #[error("inbound and outbound have the same port {0}: what comes in and what goes out could not be told apart")]
    SamePort(u16),
    #[error("the mark {0:#x} is that of captured packets; choose another")]
    OwnMark(u32),
    #[error("`{0}` is no control group: expected a path like \"system.slice/sidecar.service\"")]
    Cgroup(String),
}

/// Marks what TPROXY brings in through lo; routed to this machine by [`Capture::routes`].
pub const TPROXY_MARK: u32 = 0x539;
/// Its routing table.
pub(crate) const TABLE: u32 = 133;

impl Capture {
    /// The only way to text: what could not work, or would open a hole in a script, is refused first.
    pub fn checked(&self) -> Result<Checked<'_>, NoCapture> {
        match (self.inbound, self.outbound, self.dns) {
            (None, None, None) => return Err(NoCapture::Nothing),
            (Some(one), Some(two), _) if one == two => return Err(NoCapture::SamePort(one)),
            _ => {}
        }
        match &self.exclusion {
            Exclusion::Mark(TPROXY_MARK | 0) => Err(NoCapture::OwnMark(TPROXY_MARK)),
            Exclusion::Cgroup(path) if !is_cgroup(path) => Err(NoCapture::Cgroup(path.clone())),
            Exclusion::Mark(_) | Exclusion::Cgroup(_) | Exclusion::Uid(_) => Ok(Checked(self)),
        }
    }
}

/// A capture that can be written.
#[derive(Debug, Clone, Copy)]
pub struct Checked<'a>(&'a Capture);

impl Checked<'_> {
    /// For `iptables-restore --noflush`, or `ip6tables-restore` by family. The chains are made anew; the jumps to them must
    /// have been removed before.
    pub fn iptables(self, family: Family) -> String {
        let (mut inbound, mut outbound, mut names) = (String::new(), String::new(), String::new());
        self.iptables_inbound(&mut inbound, family);
        if let Some(port) = self.0.dns {
            let own = self.iptables_own();
            let _ = writeln!(names, "-A PORTCULLIS_OUT {own} -j RETURN");
            for protocol in ["udp", "tcp"] {
                let _ = writeln!(names, "-A PORTCULLIS_OUT -p {protocol} --dport 53 -j REDIRECT --to-ports {port}");
            }
        }
        if let Some(port) = self.0.outbound {
            self.iptables_outbound(&mut outbound, port, family);
        }
        let jump = |rules: &str, hook: &str, chain: &str| {
            if rules.is_empty() { String::new() } else { format!("-A {hook} -j {chain}\n") }
        };
        let table = |name: &str, inbound: &str, outbound: &str| {
            let jumps = jump(inbound, "PREROUTING", "PORTCULLIS_IN") + &jump(outbound, "OUTPUT", "PORTCULLIS_OUT");
            format!("*{name}\n:PORTCULLIS_IN - [0:0]\n:PORTCULLIS_OUT - [0:0]\n{inbound}{outbound}{jumps}COMMIT\n")
        };
        match self.0.method {
            Method::Redirect => table("nat", &inbound, &(names + &outbound)),
            Method::Tproxy if names.is_empty() => table("mangle", &inbound, &outbound),
            // Questions are turned round by address whatever the method: their answers come from there.
            Method::Tproxy => table("mangle", &inbound, &outbound) + &table("nat", "", &names),
        }
    }

    fn iptables_inbound(self, text: &mut String, family: Family) {
        if let (Method::Tproxy, Some(port)) = (self.0.method, self.0.outbound) {
            // What carries the mark came out of OUTPUT by way of lo.
            let _ = writeln!(
                text,
                "-A PORTCULLIS_IN -i lo -p tcp -m mark --mark {TPROXY_MARK:#x} -j TPROXY --on-port {port} --tproxy-mark \
                 {TPROXY_MARK:#x}"
            );
        }
        let Some(port) = self.0.inbound else { return };
        if self.0.method == Method::Tproxy {
            // Else the sidecar's own connection to the application came back to the sidecar.
            text.push_str("-A PORTCULLIS_IN -i lo -j RETURN\n");
        }
        let _ = writeln!(text, "-A PORTCULLIS_IN -d {} -j RETURN", loopback(family));
        for except in self.0.except_inbound_ports.iter().chain([&port]) {
            let _ = writeln!(text, "-A PORTCULLIS_IN -p tcp --dport {except} -j RETURN");
        }
        let _ = match self.0.method {
            Method::Redirect => writeln!(text, "-A PORTCULLIS_IN -p tcp -j REDIRECT --to-ports {port}"),
            Method::Tproxy => {
                writeln!(text, "-A PORTCULLIS_IN -p tcp -j TPROXY --on-port {port} --tproxy-mark {TPROXY_MARK:#x}")
            }
        };
    }

    fn iptables_outbound(self, text: &mut String, port: u16, family: Family) {
        let own = self.iptables_own();
        // First: a sidecar that captures itself turns in a circle.
        let _ =
            writeln!(text, "-A PORTCULLIS_OUT {own} -j RETURN\n-A PORTCULLIS_OUT -d {} -j RETURN", loopback(family));
        for except in &self.0.except_outbound_ports {
            let _ = writeln!(text, "-A PORTCULLIS_OUT -p tcp --dport {except} -j RETURN");
        }
        let _ = match self.0.method {
            Method::Redirect => writeln!(text, "-A PORTCULLIS_OUT -p tcp -j REDIRECT --to-ports {port}"),
            // A packet of this machine passes no PREROUTING; the mark routes it to lo, through which it comes in again.
            // Only what begins here: an answer to one who called must find its way out.
            Method::Tproxy => writeln!(
                text,
                "-A PORTCULLIS_OUT -p tcp -m conntrack --ctdir ORIGINAL -j MARK --set-mark {TPROXY_MARK:#x}"
            ),
        };
    }

    fn iptables_own(self) -> String {
        match &self.0.exclusion {
            Exclusion::Mark(mark) => format!("-m mark --mark {mark:#x}"),
            Exclusion::Cgroup(path) => format!("-m cgroup --path {path}"),
            Exclusion::Uid(uid) => format!("-m owner --uid-owner {uid}"),
        }
    }

    /// For `nft -f`. The table is made anew: running it twice leaves what running it once did.
    pub fn nft(self, families: &[Family]) -> String {
        let mut text = "table inet portcullis\ndelete table inet portcullis\ntable inet portcullis {\n".to_owned();
        // One family alone: the rest of the table does not see the other.
        let only = match families {
            [Family::V4] => "    meta nfproto != ipv4 return\n",
            [Family::V6] => "    meta nfproto != ipv6 return\n",
            _ => "",
        };
        let (kind, priority) = match self.0.method {
            Method::Redirect => ("nat", "dstnat"),
            Method::Tproxy => ("filter", "mangle"),
        };
        let _ = writeln!(text, "  chain prerouting {{\n    type {kind} hook prerouting priority {priority};\n{only}");
        self.nft_inbound(&mut text);
        text.push_str("  }\n");
        if let Some(port) = self.0.dns {
            let _ = writeln!(
                text,
                "  chain names {{\n    type nat hook output priority -101;\n{only}    {} return\n    \
                 meta l4proto {{ tcp, udp }} th dport 53 redirect to :{port}\n  }}",
                self.nft_own()
            );
        }
        if let Some(port) = self.0.outbound {
            self.nft_outbound(&mut text, port, only);
        }
        text + "}\n"
    }

    fn nft_inbound(self, text: &mut String) {
        if let (Method::Tproxy, Some(port)) = (self.0.method, self.0.outbound) {
            let _ = writeln!(
                text,
                "    iifname \"lo\" meta l4proto tcp meta mark {TPROXY_MARK:#x} tproxy to :{port} accept\n    meta mark {TPROXY_MARK:#x} return"
            );
        }
        let Some(port) = self.0.inbound else { return };
        let except = set(self.0.except_inbound_ports.iter().chain([&port]));
        let (own, verdict) = match self.0.method {
            Method::Redirect => ("", format!("redirect to :{port}")),
            // Else the sidecar's own connection to the application came back to the sidecar.
            Method::Tproxy => {
                ("    iifname \"lo\" return\n", format!("meta mark set {TPROXY_MARK:#x} tproxy to :{port} accept"))
            }
        };
        let _ = writeln!(
            text,
            "{own}    ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return\n    tcp dport {except} return\n    meta l4proto tcp {verdict}"
        );
    }

    fn nft_outbound(self, text: &mut String, port: u16, only: &str) {
        let kind = match self.0.method {
            Method::Redirect => "nat hook output priority -100",
            Method::Tproxy => "route hook output priority mangle",
        };
        let own = self.nft_own();
        let _ = writeln!(
            text,
            "  chain output {{\n    type {kind};\n{only}    {own} return\n    ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return"
        );
        if !self.0.except_outbound_ports.is_empty() {
            let _ = writeln!(text, "    tcp dport {} return", set(&self.0.except_outbound_ports));
        }
        let _ = match self.0.method {
            Method::Redirect => writeln!(text, "    meta l4proto tcp redirect to :{port}\n  }}"),
            // Only what begins here: an answer to one who called must find its way out.
            Method::Tproxy => {
                writeln!(text, "    meta l4proto tcp ct direction original meta mark set {TPROXY_MARK:#x}\n  }}")
            }
        };
    }

    fn nft_own(self) -> String {
        match &self.0.exclusion {
            Exclusion::Mark(mark) => format!("meta mark {mark:#x}"),
            Exclusion::Cgroup(path) => format!("socket cgroupv2 level {} \"{path}\"", path.split('/').count()),
            Exclusion::Uid(uid) => format!("meta skuid {uid}"),
        }
    }

    /// Commands that bring marked packets to this machine. Only TPROXY has any.
    pub fn routes(self, family: Family) -> Vec<String> {
        let (ip, all) = match family {
            Family::V4 => ("ip -4", IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
            Family::V6 => ("ip -6", IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
        };
        match self.0.method {
            Method::Redirect => Vec::new(),
            Method::Tproxy => vec![
                format!("{ip} rule add fwmark {TPROXY_MARK:#x} lookup {TABLE}"),
                format!("{ip} route replace local {all}/0 dev lo table {TABLE}"),
            ],
        }
    }
}

fn loopback(family: Family) -> &'static str {
    match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    }
}

fn set<'p>(ports: impl IntoIterator<Item = &'p u16>) -> String {
    let ports: BTreeSet<_> = ports.into_iter().collect();
    format!("{{ {} }}", ports.into_iter().map(u16::to_string).collect::<Vec<_>>().join(", "))
}

/// It is written into scripts: segments of plain characters, and none that climbs.
fn is_cgroup(path: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@' | b':');
    path.len() <= 512
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain))
}

#[cfg(test)]
mod tests;
