//! Examples of conf/ as a reader would try them, on ports that are free.

use crate::support::{
    authority::Authority,
    client::Client,
    gateway::{Gateway, run_in},
    have,
    origin::Origin,
    outside::Outside,
};
use std::{net::SocketAddr, path::Path};
use tokio::process::Command;

fn example(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)).unwrap()
}

#[tokio::test]
async fn the_way_out_lets_the_first_call_out_and_refuses_the_second() {
    let outside = Outside::start(&["www.example.com"]).await;
    let folder = tempfile::tempdir().unwrap();
    let (certs, keys) = (folder.path().join("certs"), folder.path().join("keys"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/keys");
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::create_dir_all(&keys).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, keys.join(path.file_name().unwrap())).unwrap();
    }
    let ca = Authority::new("ca");
    ca.leaf(&["localhost", "127.0.0.1"]).write(&certs, "localhost");
    ca.leaf(&["spiffe://example/gateway"]).write(&certs, "gateway");
    std::fs::write(certs.join("ca.crt"), &ca.certificate_pem).unwrap();
    std::fs::write(certs.join("inspection.crt"), &ca.certificate_pem).unwrap();
    std::fs::write(certs.join("inspection.key"), &ca.key_pem).unwrap();
    let mut text = example("egress.toml");
    for port in [3128, 3129, 3130, 3443, 15001] {
        text = text.replace(&format!("\"127.0.0.1:{port}\""), "\"127.0.0.1:0\"");
    }
    // An internet of our own: its name server, and its port in the place of 443.
    let tables = outside.config(folder.path()).replace("[egress]\nresolver = \"fake\"\n", "");
    let hosts = "hosts = [\"www.example.com\", \"**.static.example.com\"]";
    let ours = format!("{hosts}\nports = [{}]\nprivate_addresses = [\"127.0.0.0/8\"]", outside.tls.port());
    assert!(text.contains(hosts));
    let text = text.replace("[egress]\n", "[egress]\nresolver = \"fake\"\n").replace(hosts, &ours) + &tables;
    let gateway = Gateway::start_in(folder, &text).await;
    let explain = async |url: &str| {
        gateway.command(&["egress", "explain", "--from", "127.0.0.1", url, "--config", "edge.toml"]).await
    };
    let allowed = format!("https://www.example.com:{}/", outside.tls.port());
    let (code, told) = explain(&allowed).await;
    assert!(code == 0 && told.contains("everybody-to-example"), "{told}");
    let (code, told) = explain("https://www.example.org/").await;
    assert!(code == 0 && told.contains("denied: no destination has this host"), "{code} {told}");
    if !have("curl") {
        return;
    }
    let proxy = format!("http://{}", gateway.addr("out"));
    let curl = async |url: &str| {
        let ca = gateway.path().join("outside.crt");
        let mut command = Command::new("curl");
        command.args(["-sS", "-v", "--noproxy", "", "-x", &proxy, "--cacert"]).arg(ca).arg(url);
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let told = curl(&allowed).await;
    assert!(told.contains("secretly GET / HTTP"), "{told}");
    let told = curl("https://www.example.org/").await;
    assert!(told.contains("403") && told.to_ascii_lowercase().contains("proxy-status"), "{told}");
}

/// One of conf/mesh, in a folder with the identities that `portcullis ca` made for it.
async fn sidecar(name: &str, ca: &Path, edits: &[(&str, &str)]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(ca.join("ca")).arg(folder.path()).status().await.unwrap();
    assert!(copied.success());
    let mut text = example(&format!("mesh/{name}.toml"));
    let (own, rest) = text.split_once("[workload]").unwrap();
    assert!(own.contains("[process]") && own.contains("[admin]"), "the test has its own of these");
    text = format!("[workload]{rest}");
    for (from, to) in edits {
        assert!(text.contains(from), "{name}: {from}");
        text = text.replace(from, to);
    }
    Gateway::start_in(folder, &text).await
}

#[tokio::test]
async fn two_sidecars_serve_each_other_and_refuse_a_third() {
    let application = Origin::fixed("orders").await;
    let ca = tempfile::tempdir().unwrap();
    for words in [
        "ca init --trust-domain corp",
        "ca intermediate --namespace acme.lab",
        "ca issue --namespace acme.lab --service api",
        "ca issue --namespace acme.lab --service cart",
        "ca issue --namespace acme.lab --service stranger",
    ] {
        let (code, out) = run_in(ca.path(), &words.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(code, 0, "{words}\n{out}");
    }
    let to = application.addr.to_string();
    let api =
        sidecar("api", ca.path(), &[("127.0.0.1:15006", "127.0.0.1:0"), ("\"127.0.0.1:8080\"", &format!("\"{to}\""))])
            .await;
    let inbound = api.addr("inbound").to_string();
    let ways = [("127.0.0.1:15001", "127.0.0.1:0"), ("127.0.0.1:15006", inbound.as_str())];
    let ask = async |at: SocketAddr| Client::connect(at).await.get("127.0.0.1", "/orders").await;
    let cart = sidecar("cart", ca.path(), &ways).await;
    let answer = ask(cart.addr("outbound")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "orders"), "{}", cart.log());
    let (code, status) = api.command(&["mesh", "status", "--admin", "admin.sock"]).await;
    assert!(code == 0 && status.contains("cart.acme.lab") && status.contains("strict"), "{status}");
    let third = [
        ways[0],
        ways[1],
        ("sa/cart", "sa/stranger"),
        ("acme.lab/cart.", "acme.lab/stranger."),
        ("= \"cart\"", "= \"stranger\""),
    ];
    let stranger = sidecar("cart", ca.path(), &third).await;
    assert_eq!(ask(stranger.addr("outbound")).await.status, 403, "{}", stranger.log());
}
