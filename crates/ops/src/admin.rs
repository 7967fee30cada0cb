//! The admin socket: a small HTTP server on a unix socket that only this user can reach, and the client for the CLI.

use axum::Router;
use std::{
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

/// Binds the socket, 0600, in a folder made 0700 if it is not there. A socket file that nobody answers is replaced.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another process answers at {}", path.display()),
            ));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the future is dropped.
pub async fn serve(listener: UnixListener, router: Router) -> io::Result<()> {
    axum::serve(listener, router).await
}

/// What went wrong when the running process was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("no portcullis answers at {}: {error} (is it running? is --admin right?)", .path.display())]
    Unreachable { path: PathBuf, error: io::Error },
    #[error("portcullis at {} did not answer in {} seconds", .path.display(), TIMEOUT.as_secs())]
    Timeout { path: PathBuf },
    #[error("the answer of {} is not understood", .path.display())]
    Garbled { path: PathBuf },
}

const TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_MAX: u64 = 64 << 20;

/// Asks the running process. Gives status and body.
pub async fn call(path: &Path, method: &str, target: &str, body: &str) -> Result<(u16, String), AdminError> {
    let unreachable = |error| AdminError::Unreachable { path: path.to_owned(), error };
    let exchange = async {
        let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let request = format!(
            "{method} {target} HTTP/1.0\r\nHost: admin\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await.map_err(unreachable)?;
        Ok(answer)
    };
    let answer =
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| AdminError::Timeout { path: path.to_owned() })??;
    let text = String::from_utf8_lossy(&answer);
    let garbled = || AdminError::Garbled { path: path.to_owned() };
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(garbled)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(garbled)?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;

    #[tokio::test]
    async fn the_client_gets_what_the_router_says_and_a_second_server_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/admin.sock");
        let error = call(&path, "GET", "/health", "").await.unwrap_err().to_string();
        assert!(error.contains("is it running?"), "{error}");
        let listener = bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        tokio::spawn(serve(listener, Router::new().route("/health", get(|| async { "well" }))));
        assert_eq!(call(&path, "GET", "/health", "").await.unwrap(), (200, "well".to_owned()));
        assert_eq!(call(&path, "GET", "/nothing", "").await.unwrap().0, 404);
        assert_eq!(bind(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
