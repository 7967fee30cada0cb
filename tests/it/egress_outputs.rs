//! What the way out says of itself: never a secret, whatever it is asked and however it is told to log; and never at a request's cost.

use crate::support::{
    client::Client,
    gateway::Gateway,
    origin::{Origin, ok},
    outside::Outside,
};
use std::path::Path;

const CANARY: &str = "canary-0d94be71aa";

fn config(outside: &Outside, folder: &Path, credential: &str, more: &str) -> String {
    std::fs::write(folder.join("canary"), format!("{CANARY}\n")).unwrap();
    format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n\
         [destination.api]\nhosts = [\"allowed.test\", \"gone.test\"]\nports = [{}]\ntls = \"originate\"\ntrust = \"outside\"\n\
         credential = \"key\"\nprivate_addresses = [\"127.0.0.0/8\"]\nwaf = {{ mode = \"block\" }}\n\
         [waf.site]\nrules = [\"builtin\"]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:api\"]\naction = \"allow\"\n\
         [access.rest]\nfrom = [\"*\"]\nto = [\"*\"]\naction = \"report\"\n[credential.key]\n{credential}\n{more}",
        outside.config(folder),
        outside.tls.port()
    )
}

async fn get(gateway: &Gateway, path: &str) -> (u16, String) {
    get_from(gateway, "allowed.test", path).await
}

async fn get_from(gateway: &Gateway, host: &str, path: &str) -> (u16, String) {
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let answer = client.response().await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn no_kind_of_secret_is_in_any_output_even_when_everything_is_logged() {
    let tokens = Origin::start(|_| {
        ok(&format!("{{\"access_token\":\"token-{CANARY}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}"))
    })
    .await;
    let token = format!(
        "oauth2 = {{ token_url = \"http://{}/token\", client_id = \"app\", client_secret = {{ file = \"canary\" }}, \
         private_addresses = [\"127.0.0.0/8\"] }}",
        tokens.addr
    );
    let aws = "aws_sigv4 = { access_key_id = \"AKID\", secret_access_key = { file = \"canary\" }, \
               session_token = { file = \"canary\" }, region = \"eu-west-1\", service = \"sqs\" }";
    for credential in [
        "header = { name = \"x-key\", prefix = \"Key \", value = { file = \"canary\" } }",
        "basic = { user = \"app\", password = { file = \"canary\" } }",
        aws,
        &token,
    ] {
        let outside = Outside::start(&["allowed.test"]).await;
        let folder = tempfile::tempdir().unwrap();
        let more = "[telemetry]\naudit_log = { to = { file = \"audit.log\" } }\n";
        let config = config(&outside, folder.path(), credential, more);
        let gateway = Gateway::start_with(folder, &config, &[("PORTCULLIS_LOG", "trace")]).await;
        let mut told = Vec::new();
        assert_eq!(get(&gateway, "/a").await.0, 200, "{credential}");
        told.push(get(&gateway, "/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--").await.1);
        outside.point("gone.test", &["127.0.0.9"]);
        let (status, page) = get_from(&gateway, "gone.test", "/").await;
        assert_eq!(status, 502, "{credential}");
        told.push(page);
        for path in ["/status", "/config", "/listeners", "/egress/learned"] {
            told.push(gateway.admin("GET", path, "").await.1.to_string());
        }
        told.push(gateway.metrics().await);
        let proxy = gateway.addr("out").to_string();
        let outside_port = outside.clear.addr.to_string();
        for arguments in [
            &["check", "edge.toml"][..],
            &["show", "--effective", "edge.toml"],
            &["egress", "explain", "https://allowed.test/a", "--config", "edge.toml"],
            &["egress", "explain", "https://allowed.test/a", "--admin", "admin.sock", "--format", "json"],
            &["egress", "learn", "--admin", "admin.sock"],
            &["egress", "doctor", "--proxy", &proxy, "--outside", &outside_port],
        ] {
            told.push(gateway.command(arguments).await.1);
        }
        told.push(std::fs::read_to_string(gateway.path().join("audit.log")).unwrap_or_default());
        told.push(gateway.log());
        let encoded = data_encoding::BASE64.encode(format!("app:{CANARY}").as_bytes());
        for text in told {
            assert!(!text.contains(CANARY) && !text.contains(&encoded), "{credential}: {text}");
        }
    }
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_no_request_that_goes_out() {
    let outside = Outside::start(&["allowed.test"]).await;
    let folder = tempfile::tempdir().unwrap();
    let credential = "header = { name = \"x-key\", value = { file = \"canary\" } }";
    let full =
        "[telemetry]\naccess_log = { to = { file = \"/dev/full\" } }\naudit_log = { to = { file = \"/dev/full\" } }\n";
    let config = config(&outside, folder.path(), credential, full);
    let gateway = Gateway::start_in(folder, &config).await;
    for number in 0..20 {
        assert_eq!(get(&gateway, &format!("/{number}")).await.0, 200);
        assert_eq!(get(&gateway, "/?id=1%27%20UNION%20SELECT%20password%20FROM%20users--").await.0, 403);
    }
    gateway.counts("portcullis_access_log_dropped_total", &[], 60.0).await;
}
