//! `portcullis ca`: the words of the authority's commands, and what they print. The authority itself is `crates/ca`.

use anyhow::{Result, anyhow};
use clap::Subcommand;
use portcullis_ca::{AuthorityLife, CaError, Certificate, Folder, LeafLife, Namespace, Overwrite, TokenUse};
use portcullis_enrol::{Clock, Endpoint};
use portcullis_names::{TimeSpan, TrustDomain};
use portcullis_ops::signals::{Signal, Signals};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use time::OffsetDateTime;

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make the root of a trust domain.
    Init {
        #[arg(long)]
        trust_domain: TrustDomain,
        /// How long the root is good.
        #[arg(long, default_value = "3650d")]
        life: TimeSpan,
        /// A new root in the place of the old; the old one stays in root.crt, so that what it signed is believed.
        #[arg(long)]
        replace: bool,
    },
    /// Make the intermediate of a namespace under the root.
    Intermediate {
        #[arg(long)]
        namespace: String,
        #[arg(long, default_value = "365d")]
        life: TimeSpan,
        #[arg(long)]
        replace: bool,
    },
    /// Make the key of a namespace's intermediate, and the request that an external root signs.
    Csr {
        #[arg(long)]
        trust_domain: TrustDomain,
        #[arg(long)]
        namespace: String,
        #[arg(long)]
        replace: bool,
    },
    /// Take what the external root signed, once it is one that peers would believe.
    Adopt {
        #[arg(long)]
        namespace: String,
        /// PEM, the intermediate first.
        #[arg(long)]
        chain: PathBuf,
        /// PEM, the external root.
        #[arg(long)]
        root: PathBuf,
    },
    /// Make a key and a certificate for a service.
    Issue {
        #[arg(long)]
        namespace: String,
        #[arg(long)]
        service: String,
        /// From 1h to 90d.
        #[arg(long, default_value = "24h")]
        life: TimeSpan,
        /// Where SERVICE.crt, SERVICE.key and bundle.crt are written; default: in the authority's folder.
        #[arg(long)]
        into: Option<PathBuf>,
        /// A new pair in the place of the old: what rotation does.
        #[arg(long)]
        replace: bool,
    },
    /// Make a token, with which a service gets its first certificate from the endpoint of `ca serve`. It is printed once.
    Token {
        #[arg(long)]
        namespace: String,
        #[arg(long)]
        service: String,
        /// From 1s to 30d.
        #[arg(long, default_value = "1h")]
        life: TimeSpan,
        /// Good until its end rather than once: for replicas that share it.
        #[arg(long)]
        reusable: bool,
    },
    /// Serve the endpoint on which workloads renew their certificates, until SIGTERM.
    Serve {
        #[arg(long, default_value = "127.0.0.1:8460")]
        address: SocketAddr,
        /// Whose intermediate signs the endpoint's own certificate; clients know it as this namespace's `authority`.
        #[arg(long)]
        namespace: String,
        /// Of the certificates that are given: from 1h to 90d.
        #[arg(long, default_value = "24h")]
        life: TimeSpan,
    },
    /// Take a certificate back: of a service, or the intermediate of a namespace.
    Revoke { certificate: PathBuf },
    /// Show the authority's certificates, or a given one and whether it is believed.
    Show { certificate: Option<PathBuf> },
}

/// Exit code when a certificate that is shown is not believed.
const NOT_BELIEVED: u8 = 1;

pub(crate) fn ca(folder: &Path, what: CaCommand) -> Result<ExitCode> {
    let (folder, now) = (Folder::new(folder), OffsetDateTime::now_utc());
    match what {
        CaCommand::Init { trust_domain, life, replace } => {
            made("root", &folder.init(&trust_domain, AuthorityLife::new(life)?, overwrite(replace), now)?);
        }
        CaCommand::Intermediate { namespace, life, replace } => {
            let life = AuthorityLife::new(life)?;
            made("intermediate", &folder.intermediate(&namespace.parse()?, life, overwrite(replace), now)?);
        }
        CaCommand::Csr { trust_domain, namespace, replace } => {
            let request = folder.request(&trust_domain, &namespace.parse()?, overwrite(replace))?;
            println!("wrote {}: have it signed, then `portcullis ca adopt`", request.display());
        }
        CaCommand::Adopt { namespace, chain, root } => {
            made("adopted intermediate", &folder.adopt(&namespace.parse()?, &chain, &root, now)?);
        }
        CaCommand::Issue { namespace, service, life, into, replace } => {
            let (namespace, life): (Namespace, _) = (namespace.parse()?, LeafLife::new(life)?);
            let issued = folder.issue(&namespace, &service, life, into.as_deref(), overwrite(replace), now)?;
            println!("{} until {}", issued.id, moment(issued.not_after));
            for file in [&issued.chain, &issued.key, &issued.bundle] {
                println!("  {}", file.display());
            }
        }
        CaCommand::Token { namespace, service, life, reusable } => {
            let uses = if reusable { TokenUse::UntilItsEnd } else { TokenUse::Once };
            let life = time::Duration::try_from(life.get())?;
            let (id, token) = folder.new_token(&namespace.parse()?, &service, life, uses, now)?;
            eprintln!("for {id} until {}:", moment(now + life));
            println!("{token}");
        }
        CaCommand::Serve { address, namespace, life } => {
            serve(folder, address, namespace.parse()?, LeafLife::new(life)?)?
        }
        CaCommand::Revoke { certificate } => {
            let (revoked, list) = folder.revoke(&certificate, now)?;
            println!("revoked {} of {}; the list is {}", revoked.serial_text(), revoked.subject, list.display());
        }
        CaCommand::Show { certificate: Some(file) } => return show_one(&folder, &file, now),
        CaCommand::Show { certificate: None } => show_all(&folder, now)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(folder: Folder, address: SocketAddr, namespace: Namespace, life: LeafLife) -> Result<()> {
    portcullis_ops::log::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::new(folder, namespace, life, Clock::system())?;
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.map_err(|error| anyhow!("cannot listen on {address}: {error}"))?;
        println!("the authority is served on {}", listener.local_addr()?);
        let mut signals = Signals::listen()?;
        let end = async { while signals.next().await != Signal::End {} };
        tokio::select! {
            () = Arc::new(endpoint).serve(listener) => {}
            () = end => {}
        }
        Ok(())
    })
}

fn overwrite(replace: bool) -> Overwrite {
    if replace { Overwrite::Replace } else { Overwrite::Never }
}

fn made(what: &str, certificate: &Certificate) {
    println!("{what}: {}, until {}", certificate.subject, moment(certificate.not_after));
}

fn show_one(folder: &Folder, file: &Path, now: OffsetDateTime) -> Result<ExitCode> {
    let (chain, believed) = folder.show(file, now)?;
    chain.iter().for_each(|certificate| print!("{}", describe(certificate, now)));
    match believed {
        Ok(()) => println!("believed under root.crt"),
        Err(CaError::NotBelieved(why)) => {
            println!("not believed: {why}");
            return Ok(ExitCode::from(NOT_BELIEVED));
        }
        Err(other) => return Err(other.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn show_all(folder: &Folder, now: OffsetDateTime) -> Result<()> {
    println!("trust domain {}", folder.domain()?);
    for file in folder.authorities() {
        let text = std::fs::read_to_string(&file).map_err(|error| anyhow!("{}: {error}", file.display()))?;
        for (certificate, _) in Certificate::read_all(&text, &file.display().to_string())? {
            print!("{}", describe(&certificate, now));
        }
    }
    Ok(())
}

fn describe(certificate: &Certificate, now: OffsetDateTime) -> String {
    let left = (certificate.not_after - now).whole_seconds();
    let id = certificate.spiffe.as_ref().map_or("-", |id| id.as_str());
    format!(
        "{}\n  id      {id}\n  issuer  {}\n  serial  {}\n  valid   {} to {}, {left} seconds left\n",
        certificate.subject,
        certificate.issuer,
        certificate.serial_text(),
        moment(certificate.not_before),
        moment(certificate.not_after),
    )
}

fn moment(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).to_string()
}
