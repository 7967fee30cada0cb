//! Where a rule may end an exchange, and what becomes of bodies that are larger than what is looked at.

use crate::support::{
    client::{Client, h2},
    gateway::Gateway,
    origin::{Origin, Seen, ok},
};
use std::time::Duration;

async fn edge(origin: &Origin, rules: &str, set: &str) -> Gateway {
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[waf.own]\nrules = [\"own.conf\"]\n{set}\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\nwaf = {{ profile = \"own\", mode = \"block\" }}\n",
        origin.addr
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.conf"), rules).unwrap();
    Gateway::start_in(folder, &config).await
}

const PHASES: &str = "SecRequestBodyAccess On\nSecResponseBodyAccess On\nSecResponseBodyMimeType text/plain\n\
    SecRule REQUEST_HEADERS:X-Word \"@streq one\" \"id:1,phase:1,deny,status:401,log,msg:'one'\"\n\
    SecRule ARGS_POST:word \"@streq two\" \"id:2,phase:2,deny,status:402,log,msg:'two'\"\n\
    SecRule RESPONSE_HEADERS:X-Word \"@streq three\" \"id:3,phase:3,deny,status:403,log,msg:'three'\"\n\
    SecRule RESPONSE_BODY \"@contains four\" \"id:4,phase:4,deny,status:404,log,msg:'four'\"\n\
    SecRule RESPONSE_BODY \"@contains five\" \"id:5,phase:5,deny,status:405,log,msg:'five'\"\n";

fn answer(seen: &Seen) -> Vec<u8> {
    let word = seen.body.strip_prefix(b"word=").unwrap_or_default();
    let word = String::from_utf8_lossy(word).into_owned();
    let body = format!("the word is {word}");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Word: {word}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Phases 1 to 3 answer instead; in the fourth the head is with the client, so that the body is withheld; the fifth only notes.
#[tokio::test]
async fn rules_of_every_phase_end_what_they_refuse_and_nothing_else() {
    let origin = Origin::start(answer).await;
    let gateway = edge(&origin, PHASES, "").await;
    for (word, status, asked) in
        [("one", 401, false), ("two", 402, false), ("three", 403, true), ("five", 200, true), ("six", 200, true)]
    {
        let before = origin.requests().len();
        let header = if word == "one" { "one" } else { "none" };
        let body = format!("word={word}");
        let mut client = Client::connect(gateway.addr("http")).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a.test\r\nX-Word: {header}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let response = client.response().await;
        assert_eq!(response.status, status, "{word} over HTTP/1.1");
        assert_eq!(response.text().contains("the word is"), status == 200, "{word}: {}", response.text());
        let stream = tokio::net::TcpStream::connect(gateway.addr("http")).await.unwrap();
        let mut sender = h2(stream).await.ready().await.unwrap();
        let request = http::Request::post("http://a.test/").header("x-word", header);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(()).unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        stream.send_data(body.into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), status, "{word} over HTTP/2");
        assert_eq!(origin.requests().len() - before, if asked { 2 } else { 0 }, "{word}");
    }
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\nword=four").await;
    let response = client.try_response(false).await;
    assert!(response.is_none_or(|response| !response.text().contains("the word is")), "nothing of the body is seen");
}

#[tokio::test]
async fn a_body_beyond_what_is_looked_at_passes_or_is_refused_as_the_set_says() {
    const RULE: &str = "SecRequestBodyAccess On\nSecRequestBodyNoFilesLimit 100\n\
        SecRule ARGS_POST \"@contains evil\" \"id:1,phase:2,deny,status:406,log,msg:'evil'\"\n";
    let origin = Origin::start(|seen: &Seen| ok(&seen.body.len().to_string())).await;
    let limit = 4096;
    for (beyond, larger) in [("inspect_prefix", 200), ("refuse", 413)] {
        let gateway = edge(&origin, RULE, &format!("body = \"4KiB\"\nbeyond = \"{beyond}\"")).await;
        let filled = |start: &str, size: usize| format!("{start}{}", "x".repeat(size - start.len()));
        let late = filled("a=", limit - 6) + "&b=evil";
        for (body, status) in [
            (filled("a=", limit - 1), 200),
            (filled("a=", limit), 200),
            (filled("a=", limit + 1), larger),
            (filled("a=", 40 * limit), larger),
            (filled("a=evil", limit), 406),
            (filled("a=evil", 2 * limit), if larger == 413 { 413 } else { 406 }),
            // Its end is beyond the limit, where nobody looks.
            (late, larger),
        ] {
            let before = origin.requests().len();
            let head = "POST /form HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/x-www-form-urlencoded\r\n";
            let sized = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            for request in [sized, chunked] {
                let mut client = Client::connect(gateway.addr("http")).await;
                let _ = client.try_send(request).await;
                let response = client.response().await;
                assert_eq!(response.status, status, "{beyond}, {} octets", body.len());
                assert!(status != 200 || response.text() == body.len().to_string(), "it arrives whole");
            }
            let stream = tokio::net::TcpStream::connect(gateway.addr("http")).await.unwrap();
            let mut sender = h2(stream).await.ready().await.unwrap();
            let request =
                http::Request::post("http://a.test/form").header("content-type", "application/x-www-form-urlencoded");
            let (response, mut stream) = sender.send_request(request.body(()).unwrap(), false).unwrap();
            stream.send_data(body.clone().into(), true).unwrap();
            let response = tokio::time::timeout(Duration::from_secs(15), response).await.expect("an answer").unwrap();
            assert_eq!(response.status(), status, "{beyond}, {} octets over HTTP/2", body.len());
            assert_eq!(origin.requests().len() - before, if status == 200 { 3 } else { 0 }, "{beyond}: {}", body.len());
        }
    }
}
