//! The tests of the Core Rule Set that expect something of the server alone: 21 requests which no rule is to see, because the
//! server itself refuses them. The engine's own run of the suite cannot judge them; here they are sent to the whole program.

use crate::support::{client::Client, gateway::Gateway, origin::Origin};

/// The test's name, and its request without the fields that all have.
const REQUESTS: [(&str, &str); 21] = [
    ("920100-2", "     GET /get HTTP/1.1\r\nHost: localhost\r\n"),
    ("920100-5", "CONNECT www.coreruleset.org HTTP/1.1\r\nHost: localhost\r\n"),
    ("920100-8", "GET /get/index.html:80?I=Like&Apples=Today#tag HTTP/1.1\r\nHost: localhost\r\n"),
    ("920100-11", "GET \\ HTTP/1.1\r\nHost: localhost\r\n"),
    ("920100-12", "\tGET /get HTTP/1.1\r\nHost: localhost\r\n"),
    ("920100-13", "GET \\index.html HTTP\\1.0\r\nHost: localhost\r\n"),
    (
        "920100-15",
        "GET /get?input=<script xmlns=\"http://www.w3.org/1999/xhtml\">setTimeout(1)</script>&// HTTP/1.1\r\nHost: localhost\r\n",
    ),
    ("920160-1", "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: NotDigits\r\n"),
    (
        "920160-2",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: NotDigits\r\n",
    ),
    (
        "920160-3",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 123x\r\n",
    ),
    (
        "920160-5",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3;\r\n",
    ),
    ("920270-4", "GET /?test=test1 HTTP/1.1\r\nHost: localhost%00\r\n"),
    ("920274-1", "GET /get?test=test1 HTTP/1.1\r\nHost: localhost%1F\r\n"),
    ("920280-3", "GET / HTTP/0.9\r\nHost: localhost\r\n"),
    ("920290-1", "GET / HTTP/1.1\r\nHost: \r\n"),
    ("920430-3", "GET / HTTP/0.9\r\nHost: localhost\r\n"),
    ("920430-6", "GET / 1.1\r\nHost: localhost\r\n"),
    ("920430-7", "GET / TEST\r\nHost: localhost\r\n"),
    ("920430-9", "GET / HTTP/0.8\r\nHost: localhost\r\n"),
    ("920430-10", "GET / JUNK/1.0\r\nHost: localhost\r\n"),
    ("920610-2", "GET /#fragment HTTP/1.1\r\nHost: localhost\r\n"),
];

/// The server says what is wrong with these: the version (RFC 9110 §15.6.6). The suite was written for servers that say 400.
const OF_ANOTHER_VERSION: [&str; 3] = ["920280-3", "920430-3", "920430-9"];

#[tokio::test]
async fn what_no_rule_should_see_is_refused_by_the_server() {
    let origin = Origin::echo().await;
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nwaf.mode = \"detect\"\n",
        origin.addr
    ))
    .await;
    let mut wrong = Vec::new();
    for (name, request) in REQUESTS {
        let mut client = Client::connect(gateway.addr("http")).await;
        client
            .send(format!("{request}User-Agent: OWASP CRS test agent\r\nAccept: */*\r\nConnection: close\r\n\r\n"))
            .await;
        let status = client.response().await.status;
        let expected = if OF_ANOTHER_VERSION.contains(&name) { 505 } else { 400 };
        if status != expected {
            wrong.push((name, status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(
        origin.requests().is_empty(),
        "{:?}",
        origin.requests().iter().map(|seen| seen.line().to_owned()).collect::<Vec<_>>()
    );
}
