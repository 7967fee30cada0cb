//! The command line: what can be asked, in which words.

use crate::Program;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use portcullis_names::TimeSpan;
use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Exit code when the configuration has errors.
pub(crate) const REFUSED: u8 = 1;
/// Exit code when the command itself could not be carried out.
pub(crate) const FAILED: u8 = 2;

/// An edge gateway from one TOML file: TLS, routing, balancing, and an explanation for every decision.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Under the name of the program that was started. Ends the process when help is asked for or words are wrong.
    pub(crate) fn of(program: Program, arguments: impl Iterator<Item = OsString>) -> Self {
        let name = match program {
            Program::Portcullis => "portcullis",
            Program::MeshProxy => "mesh-proxy",
        };
        let mut command = Self::command().name(name);
        if program == Program::MeshProxy {
            command = command.about(
                "A workload's sidecar from one TOML file: identity, mTLS, capture, and the gateway's whole pipeline",
            );
        }
        let matches = command.get_matches_from(crate::mesh::arguments(program, arguments));
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve what the files say, until SIGTERM.
    Run {
        /// Configuration files; more can be included from them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Take the listening sockets over from the process that serves now.
        #[arg(long)]
        upgrade: bool,
    },
    /// Start demo origins, a certificate authority and an HTTPS edge on loopback, and say what to try.
    Demo {
        /// Where certificates and configuration are written.
        #[arg(long, default_value = "run/demo")]
        folder: PathBuf,
        /// Port of the HTTPS edge; the next one is plain HTTP. 0 picks free ones.
        #[arg(long, default_value_t = 8443)]
        port: u16,
        /// Port of the DNS server; a free one when somebody has it.
        #[arg(long, default_value_t = 5353)]
        dns_port: u16,
    },
    /// Find every mistake in the files. Exit code 0: fit to run; 1: errors; 2: could not look.
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Show what the files mean with every default filled in.
    Show {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// With the place that each value comes from.
        #[arg(long, required = true)]
        effective: bool,
    },
    /// Print the JSON Schema of the language, for editors.
    Schema,
    /// Compare files with the configuration that is running.
    Diff {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Say which listener, host and rule a request would take, why the others lost, and what would happen to it.
    Explain {
        method: String,
        url: String,
        /// A request header, like 'X-Beta: 1'.
        #[arg(short = 'H', long = "header")]
        headers: Vec<String>,
        /// The client's address.
        #[arg(long, default_value = "127.0.0.1")]
        from: IpAddr,
        /// Ask about these files; without, about the running configuration.
        #[arg(long = "config")]
        files: Vec<PathBuf>,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// What may leave by the egress gateway, and what has.
    Egress {
        #[command(subcommand)]
        what: EgressCommand,
    },
    /// Read the files again and serve what they say now.
    Reload {
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Show generation, listeners, upstreams and the last reload.
    Status {
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Take an endpoint or a listener out of service, or put it back with --undo.
    Drain {
        #[command(subcommand)]
        what: Drain,
    },
    /// Set an endpoint up, down or drained, whatever its health says, or back to auto.
    Force {
        upstream: String,
        address: String,
        #[arg(value_enum)]
        state: ForcedState,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Be the certificate authority of a mesh: identities for workloads, from a root of your own or an external one.
    Ca {
        /// Where the authority's files are.
        #[arg(long, default_value = "ca", global = true)]
        folder: PathBuf,
        #[command(subcommand)]
        what: crate::ca::CaCommand,
    },
    /// See a sidecar: its peers, how they are protected, what was refused and why.
    Mesh {
        #[command(subcommand)]
        what: MeshCommand,
    },
    /// See how rollouts and objectives are doing, or have a word in it.
    Rollout {
        #[command(subcommand)]
        what: RolloutCommand,
    },
    /// Ask the web application firewall: why, what if, and what it costs.
    Waf {
        #[command(subcommand)]
        what: crate::waf::WafCommand,
    },
    /// Documents of APIs.
    Api {
        #[command(subcommand)]
        what: ApiCommand,
    },
    /// Show which route leaks what: where personal data was found since the process began, and what was done about it.
    Privacy {
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// See and steer DNS: zones, published services, their sites and members.
    Gslb {
        #[command(subcommand)]
        what: GslbCommand,
    },
    /// Start this program's file anew, hand the sockets over, and let the old process end.
    Upgrade {
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Make a certificate authority and a certificate for trying things out.
    Certificate {
        /// DNS names or addresses to certify.
        #[arg(required = true)]
        names: Vec<String>,
        /// Folder for ca.crt, NAME.crt and NAME.key.
        #[arg(long, default_value = "certs")]
        folder: PathBuf,
        /// File name of the certificate, without ending. Default: the first name.
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    /// Say whether a caller may reach a URL, by which rule, and why the others do not apply.
    Explain {
        /// Like https://api.example.com/v1/charges.
        url: String,
        /// An address, spiffe://…, certificate:NAME, user:NAME, uid:NUMBER or cgroup:/PATH. Several describe one caller.
        #[arg(long, default_value = "127.0.0.1")]
        from: Vec<String>,
        #[arg(long, default_value = "GET")]
        method: String,
        /// Ask about these files; without, about the running configuration.
        #[arg(long = "config")]
        files: Vec<PathBuf>,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Print the least configuration that allows what rules with action = "report" have let through.
    Learn {
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Run where applications run: tries the ways around the gateway and says which are open.
    Doctor {
        /// The gateway's explicit proxy, like 10.0.0.5:3128.
        #[arg(long)]
        proxy: SocketAddr,
        /// A TCP address outside that must not be reached directly.
        #[arg(long, default_values_t = ["1.1.1.1:443".parse::<SocketAddr>().expect("an address"), "[2606:4700:4700::1111]:443".parse().expect("an address")])]
        outside: Vec<SocketAddr>,
        /// A name that must not be resolved by asking outside.
        #[arg(long, default_value = "example.com")]
        name: String,
        /// User ids that a packet filter may let pass, like those of sidecars.
        #[arg(long, default_values_t = [1337, 2102, 5678])]
        uid: Vec<u32>,
        /// Asks nothing but whether `proxy` takes a connection; how the questions as other users are asked.
        #[arg(long, hide = true)]
        only_connect: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Drain {
    /// No new requests to this endpoint of this upstream.
    Endpoint {
        upstream: String,
        address: String,
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// No new connections on this listener; open ones end after what they do.
    Listener {
        name: String,
        #[command(flatten)]
        admin: AdminSocket,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiCommand {
    /// Propose an OpenAPI document from access logs, for you to read and correct: it is printed, and enforces nothing.
    Learn {
        /// Access logs in JSON, as the gateway writes them.
        #[arg(long, required = true)]
        from: Vec<PathBuf>,
        /// Only requests of this route.
        #[arg(long)]
        route: Option<String>,
        #[arg(long, default_value = "proposed")]
        title: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// Each peer: identity, mode, cipher, expiry, protocol, calls, and the last refusal with its reason.
    Status {
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Lead an application's connections to its sidecar: print the rules, apply or remove them.
    Capture {
        #[command(subcommand)]
        what: portcullis_sidecar::CaptureCommand,
    },
    /// Wait until the sidecar is ready, then become the application.
    Wait(portcullis_sidecar::WaitArguments),
    /// End the sidecar, whether its application has ended or not.
    Quit {
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Who calls whom, as seen from here: JSON, or a drawing for Graphviz.
    Graph {
        #[arg(long)]
        dot: bool,
        #[command(flatten)]
        admin: AdminSocket,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Every rollout with its state, share and figures, and what is left of error budgets.
    Status {
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Stay at this share; a release that fails its gate is still taken back.
    Pause(RolloutWish),
    /// Go on from where it was paused, or anew after a rollback or an abort.
    Resume(RolloutWish),
    /// Go to the last step at once, whatever the gate says.
    Promote(RolloutWish),
    /// Everything goes back to the old version.
    Abort(RolloutWish),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GslbCommand {
    /// Zones, sites and members with state and reason, and what operators ordered.
    Status {
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Say what a client would be answered for a published name, and why: the data path's own choice.
    Explain {
        name: String,
        /// The address that asks: a resolver's, as a rule.
        #[arg(long)]
        from: IpAddr,
        /// The client's network, as a resolver may tell it (EDNS client subnet): 203.0.113.0/24.
        #[arg(long)]
        subnet: Option<String>,
        /// Taken to be down: SERVICE/SITE or SERVICE/SITE/ADDRESS.
        #[arg(long)]
        down: Vec<String>,
        /// Ask about these files, before any check has ended; without, about the running configuration and its health.
        #[arg(long = "config")]
        files: Vec<PathBuf>,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Print what the parent of a zone must have: NS, glue and DS. With --parent, compare with what it has.
    Delegate {
        zone: String,
        /// A name server of the parent, with its port: 192.0.2.53:53.
        #[arg(long)]
        parent: Option<SocketAddr>,
        /// Read the zone from these files; without, from the running configuration.
        #[arg(long = "config")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Ask the running configuration and a candidate about every query of a query log, and show how load would move.
    Replay {
        /// Lines as `telemetry.query_log` writes them.
        log: PathBuf,
        /// Files of the candidate.
        #[arg(long = "config", required = true)]
        files: Vec<PathBuf>,
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        admin: AdminSocket,
    },
    /// Make a private key that signs zones, for `zone.NAME.dnssec.keys`.
    Key {
        /// It must not be there yet.
        file: PathBuf,
        #[arg(long, value_enum, default_value_t = KeyAlgorithm::Ecdsap256)]
        algorithm: KeyAlgorithm,
    },
    /// Answer with a site or a member no more: resolvers go elsewhere as their copies run out.
    Drain(GslbOrder),
    /// Take a site or a member to be down, whatever its checks say.
    Disable(GslbOrder),
    /// Take a site or a member to be up or down, whatever its checks say.
    Force {
        #[arg(value_enum)]
        state: GslbState,
        #[command(flatten)]
        order: GslbOrder,
    },
    /// The big red button: take a site out of all services.
    SiteOff {
        site: String,
        #[command(flatten)]
        word: GslbWord,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyAlgorithm {
    Ecdsap256,
    Ed25519,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GslbState {
    Up,
    Down,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GslbOrder {
    pub service: String,
    pub site: String,
    /// An address of the site. Default: the whole site.
    pub member: Option<IpAddr>,
    #[command(flatten)]
    pub word: GslbWord,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GslbWord {
    /// Kept with the order, and shown.
    #[arg(long, required_unless_present = "undo")]
    pub why: Option<String>,
    /// Who says so. Default: the user who is logged in.
    #[arg(long)]
    pub author: Option<String>,
    /// How long it holds, like 90m; it ends by itself.
    #[arg(long = "for", default_value = "4h")]
    pub span: TimeSpan,
    /// When it begins: after this time. Default: at once.
    #[arg(long)]
    pub after: Option<TimeSpan>,
    /// Take the order back.
    #[arg(long)]
    pub undo: bool,
    #[command(flatten)]
    pub admin: AdminSocket,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RolloutWish {
    pub rollout: String,
    /// Kept with the state, and shown.
    #[arg(long)]
    pub why: Option<String>,
    #[command(flatten)]
    pub admin: AdminSocket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ForcedState {
    Auto,
    Drained,
    Up,
    Down,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AdminSocket {
    /// The admin socket of the running process.
    #[arg(long, default_value = "run/admin.sock", env = "PORTCULLIS_ADMIN")]
    pub admin: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}
