//! The proxies, each with a plain list of endpoints and otherwise its defaults.

use clap::ValueEnum;
use std::{
    env, fmt, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Portcullis,
    Nginx,
    Haproxy,
}

/// What portcullis is told beyond its defaults; nothing, when it is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'s> {
    pub(crate) upstream: &'s str,
    pub(crate) route: &'s str,
}

/// A proxy that runs.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Portcullis, Self::Nginx, Self::Haproxy];

    pub(crate) fn is_there(self) -> bool {
        let found = self.program().is_some();
        if !found {
            eprintln!("left out: {self} is not installed");
        }
        found
    }

    fn program(self) -> Option<PathBuf> {
        if self == Self::Portcullis {
            let built = env::var_os("PORTCULLIS").unwrap_or_else(|| env!("CARGO_BIN_EXE_portcullis").into());
            return Some(PathBuf::from(built)).filter(|path| path.exists());
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let mut folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        folders.find_map(|folder| Some(folder.join(self.to_string())).filter(|program| program.exists()))
    }

    pub(crate) async fn start(
        self,
        folder: &Path,
        endpoints: &[SocketAddr],
        settings: Settings<'_>,
    ) -> io::Result<Proxy> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = folder.join(format!("{self}.conf"));
        fs::write(&file, self.configuration(folder, address, endpoints, settings))?;
        let mut command = Command::new(self.program().ok_or(io::ErrorKind::NotFound)?);
        match self {
            Self::Portcullis => command.arg("run").arg(&file),
            Self::Nginx => command.arg("-c").arg(&file).arg("-p").arg(folder),
            Self::Haproxy => command.arg("-db").arg("-f").arg(&file),
        };
        let log = fs::File::create(folder.join(format!("{self}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()?;
        let mut proxy = Proxy { address, child };
        for _ in 0..200 {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(proxy);
            }
            sleep(Duration::from_millis(25)).await;
        }
        proxy.stop().await;
        let said = fs::read_to_string(folder.join(format!("{self}.log")))?;
        Err(io::Error::other(format!("{self} does not listen on {address}: {said}")))
    }

    fn configuration(
        self,
        folder: &Path,
        address: SocketAddr,
        endpoints: &[SocketAddr],
        settings: Settings<'_>,
    ) -> String {
        let folder = folder.display();
        let list = |each: &dyn Fn(usize, &SocketAddr) -> String, between: &str| {
            endpoints.iter().enumerate().map(|(n, endpoint)| each(n, endpoint)).collect::<Vec<_>>().join(between)
        };
        match self {
            Self::Portcullis => format!(
                "[process]\nupgrade = \"unix:{folder}/upgrade.sock\"\n[admin]\naddress = \"unix:{folder}/admin.sock\"\n\
                 [listener.http]\naddress = \"{address}\"\nprotocol = \"http\"\n\
                 [upstream.app]\nendpoints = [{}]\n{}\n[route.app]\nupstream = \"app\"\n{}\n",
                list(&|_, endpoint| format!("\"{endpoint}\""), ", "),
                settings.upstream,
                settings.route
            ),
            Self::Nginx => format!(
                "daemon off; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
                 client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;\n\
                 uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\nupstream app {{ {} }}\n\
                 server {{ listen {address}; location / {{ proxy_pass http://app; }} }}\n}}\n",
                list(&|_, endpoint| format!("server {endpoint};"), " ")
            ),
            // The timeouts of Debian's haproxy.cfg: it has none of its own, and warns.
            Self::Haproxy => format!(
                "defaults\n  mode http\n  option redispatch\n  timeout connect 5000\n  timeout client 50000\n  \
                 timeout server 50000\nfrontend in\n  bind {address}\n  default_backend app\nbackend app\n  {}\n",
                list(&|n, endpoint| format!("server s{n} {endpoint}"), "\n  ")
            ),
        }
    }
}

impl Proxy {
    /// Asks it to end, and after a while insists.
    pub(crate) async fn stop(&mut self) {
        if let Some(pid) = self.child.id() {
            let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
        }
        if timeout(Duration::from_secs(2), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Portcullis => "portcullis",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        })
    }
}
