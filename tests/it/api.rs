//! An API's document in the way of real requests: what is known and fits passes untouched, the rest is told or refused.

use crate::support::{
    client::{Client, Response, h2},
    eventually,
    gateway::{Gateway, run_in},
    origin::{Origin, Seen},
};
use serde_json::Value;
use std::io::Write;
use tokio::net::TcpStream;

const DOCUMENT: &str = r##"openapi: 3.0.3
info: { title: t, version: "1" }
servers: [{ url: "https://a.test/v1/" }]
paths:
  /pets:
    get:
      parameters:
        - { name: limit, in: query, schema: { type: integer, maximum: 10 } }
        - { name: tag, in: query, schema: { type: array, items: { type: string, maxLength: 3 } } }
        - { name: ids, in: query, explode: false, schema: { type: array, items: { type: integer } } }
        - { name: filter, in: query, style: deepObject, schema: { type: object, properties: { age: { type: integer } } } }
        - { name: X-Page, in: header, schema: { type: integer } }
        - { name: session, in: cookie, schema: { type: string, minLength: 4 } }
      responses: { "200": { description: ok, content: { application/json: { schema: { $ref: "#/components/schemas/Pet" } } } } }
    post:
      requestBody: { $ref: "#/components/requestBodies/Pet" }
      responses: { 2XX: { description: ok }, default: { description: other } }
    put:
      requestBody: { content: { "image/*": {} } }
      responses: { default: { description: any } }
  /pets/{id}:
    parameters: [{ name: id, in: path, required: true, schema: { type: integer } }]
    get: { responses: { default: { description: any } } }
    delete: { responses: { "204": { description: gone } } }
  /pets/mine:
    get: { responses: { default: { description: any } } }
  /colors/{color}:
    parameters: [{ name: color, in: path, required: true, style: matrix, explode: true, schema: { type: array, items: { type: string, enum: [blue, black] } } }]
    get:
      parameters: [{ name: box, in: query, explode: false, schema: { type: object, properties: { w: { type: integer }, h: { type: integer } } } }]
      responses: { default: { description: any } }
  /pictures:
    post:
      requestBody:
        required: true
        content:
          multipart/form-data:
            schema: { type: object, required: [title, file], additionalProperties: false, properties: { title: { type: string, maxLength: 8 }, size: { type: integer }, file: { type: string, format: binary }, more: { $ref: "#/components/schemas/Pet" } } }
      responses: { default: { description: any } }
  /notes:
    post:
      requestBody:
        content:
          application/xml: { schema: { $ref: "#/components/schemas/Pet" } }
          text/csv: { schema: { type: string } }
      responses: { default: { description: any, content: { text/xml: { schema: { type: array, items: { type: string } } }, text/plain: {} } } }
  /call:
    post:
      requestBody: { content: { application/grpc: {} } }
      responses: { default: { description: any } }
components:
  requestBodies:
    Pet:
      required: true
      content:
        application/json: { schema: { $ref: "#/components/schemas/Pet" } }
        application/x-www-form-urlencoded: { schema: { $ref: "#/components/schemas/Pet" } }
        application/octet-stream: {}
  schemas:
    Pet:
      type: object
      required: [name]
      additionalProperties: false
      properties:
        name: { type: string, maxLength: 8, pattern: "^[a-z]*$" }
        age: { type: integer, nullable: true, minimum: 0, exclusiveMinimum: true }
        parent: { $ref: "#/components/schemas/Pet" }
        text: { type: string }
"##;

async fn edge_with(origin: &Origin, objects: &str, rest: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api.yaml"), DOCUMENT).unwrap();
    let config = format!(
        "[telemetry]\naudit_log = {{ to = {{ file = \"audit.log\" }} }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n{objects}\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n{rest}\n",
        origin.addr
    );
    Gateway::start_in(folder, &config).await
}

async fn edge(origin: &Origin, keys: &str) -> Gateway {
    edge_with(origin, &format!("[api.pets]\nopenapi = \"api.yaml\"\n{keys}\n"), "api = \"pets\"").await
}

async fn ask(gateway: &Gateway, request: impl AsRef<[u8]>) -> Response {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(request).await;
    client.response().await
}

fn send(method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n{fields}{length}\r\n");
    [head.as_bytes(), body].concat()
}

fn get(target: &str) -> Vec<u8> {
    send("GET", target, "", b"")
}

fn json(body: &str) -> Vec<u8> {
    send("POST", "/v1/pets", "Content-Type: application/json; charset=utf-8\r\n", body.as_bytes())
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

async fn audits(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("audit lines", async || {
        let text = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap_or_default();
        // The last line may be half written.
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

const BLOCK: &str = "validate = { request = \"block\", unknown = \"block\" }";

#[tokio::test]
async fn only_what_the_document_has_gets_through() {
    let origin = Origin::fixed("{\"name\":\"rex\"}").await;
    let gateway = edge(&origin, BLOCK).await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let packed = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    for (request, status) in [
        (get("/v1/pets"), 200),
        (get("/v1/pets?limit=10&tag=a&tag=b&ids=1,2&filter%5Bage%5D=3"), 200),
        (send("HEAD", "/v1/pets", "", b""), 200),
        (get("/v1/pets/17"), 200),
        (get("/v1/pets/mine"), 200),
        (send("GET", "/v1/pets", "X-Page: 2\r\nCookie: a=b; session=abcd\r\n", b""), 200),
        (json("{\"name\":\"rex\",\"age\":null,\"parent\":{\"name\":\"max\",\"age\":4}}"), 200),
        (send("POST", "/v1/pets", form, b"name=rex&age=3"), 200),
        (send("POST", "/v1/pets", packed, &gzip(b"{\"name\":\"rex\"}")), 200),
        (send("PUT", "/v1/pets", "Content-Type: image/png\r\n", b"\x89PNG"), 200),
        (get("/pets"), 404),
        (get("/v1/dogs"), 404),
        (get("/v1/pets/"), 404),
        (send("PATCH", "/v1/pets", "", b""), 405),
        (get("/v1/pets?colour=red"), 400),
        (get("/v1/pets?limit=11"), 400),
        (get("/v1/pets?limit=x"), 400),
        (get("/v1/pets?limit=1&limit=2"), 400),
        (get("/v1/pets?tag=abcd"), 400),
        (get("/v1/pets?ids=1,x"), 400),
        (get("/v1/pets?filter%5Bage%5D=old"), 400),
        (get("/v1/pets/rex"), 400),
        (send("GET", "/v1/pets", "X-Page: two\r\n", b""), 400),
        (send("GET", "/v1/pets", "Cookie: session=abc\r\n", b""), 400),
        (send("POST", "/v1/pets", "", b""), 400),
        (send("GET", "/v1/pets", "Content-Type: text/plain\r\n", b"body"), 400),
        (send("POST", "/v1/pets", "Content-Type: text/plain\r\n", b"name"), 415),
        (send("POST", "/v1/pets", "", b"name"), 415),
        (json("{\"name\":\"REX\"}"), 400),
        (json("{\"name\":\"rex\",\"age\":0}"), 400),
        (json("{\"name\":\"rex\",\"admin\":true}"), 400),
        (json("{\"name\":\"rex\",\"parent\":{\"name\":7}}"), 400),
        (json("{\"name\":\"rex\""), 400),
        (json(&"[".repeat(100_000)), 400),
        (json(&"{\"parent\":".repeat(50_000)), 400),
        (get(&format!("/v1/pets?{}", "limit=1&".repeat(1_000))), 400),
        (send("POST", "/v1/pets", form, b"name=rex&age=x"), 400),
        (send("POST", "/v1/pets", packed, &gzip(b"{\"name\":7}")), 400),
        (send("POST", "/v1/pets", packed, b"no gzip at all"), 400),
    ] {
        let before = origin.requests().len();
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(&request).await;
        let got = client.try_response(request.starts_with(b"HEAD")).await.unwrap();
        assert_eq!(got.status, status, "{}", String::from_utf8_lossy(&request));
        assert_eq!(
            origin.requests().len() - before,
            usize::from(status == 200),
            "{}",
            String::from_utf8_lossy(&request)
        );
        if status == 405 {
            assert_eq!(got.header("allow"), Some("GET, POST, PUT"));
        }
    }
    gateway
        .counts(
            "portcullis_api_violations_total",
            &["kind=\"unknown_path\"", "action=\"block\"", "api=\"pets\"", "route=\"app\""],
            3.0,
        )
        .await;
    gateway.counts("portcullis_refusals_total", &["reason=\"api_content_type\""], 2.0).await;
}

#[tokio::test]
async fn logging_tells_where_and_which_rule_and_passes_everything() {
    let origin = Origin::fixed("{\"nom\":\"secret-answer\"}").await;
    let gateway = edge(&origin, "validate = { response = \"log\" }").await;
    let requests = [get("/elsewhere?x=secret-query"), json("{\"name\":\"secret-body\"}"), get("/v1/pets?limit=99999")];
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(ask(&gateway, request).await.text(), "{\"nom\":\"secret-answer\"}");
        // A record is written after its answer: the next one must not overtake it.
        audits(&gateway, index + 1).await;
    }
    let lines = audits(&gateway, 3).await;
    let told = |line: &Value| -> Vec<String> {
        let all = line["violations"].as_array().unwrap().iter();
        all.map(|one| format!("{} {} {}", one["kind"], one["place"], one["action"]).replace('"', "")).collect()
    };
    assert_eq!(told(&lines[0]), ["unknown_path path log"]);
    assert_eq!(told(&lines[1])[0], "body body /name log");
    assert_eq!(
        (&lines[1]["violations"][0]["api"], &lines[1]["violations"][0]["operation"]),
        (&"pets".into(), &"POST /pets".into())
    );
    assert!(told(&lines[2]).contains(&"parameter query limit log".to_owned()), "{:?}", told(&lines[2]));
    // The origin answers text/plain, which the operation does not.
    assert!(told(&lines[2]).contains(&"response_content_type response log".to_owned()), "{:?}", told(&lines[2]));
    let text = std::fs::read_to_string(gateway.path().join("audit.log")).unwrap();
    assert!(!text.contains("secret") && !text.contains("99999"), "{text}");
    // `off` tells nothing.
    let gateway = edge(&origin, "validate = { request = \"log\", unknown = \"off\" }").await;
    assert_eq!(ask(&gateway, get("/elsewhere")).await.status, 200);
    assert_eq!(ask(&gateway, get("/v1/pets?limit=77")).await.status, 200);
    assert_eq!(told(&audits(&gateway, 1).await[0]), ["parameter query limit log"]);
}

#[tokio::test]
async fn responses_are_held_against_the_document_too() {
    let origin = Origin::start(|seen: &Seen| {
        let (status, kind, body) = match seen.header("x-want").unwrap_or_default() {
            "status" => (418, "application/json", "{\"name\":\"rex\"}".to_owned()),
            "type" => (200, "text/html", "<p>".to_owned()),
            "body" => (200, "application/json", "{\"nom\":\"rex\"}".to_owned()),
            "large" => (200, "application/json", format!("{{\"name\":\"rex\",\"text\":\"{}\"}}", "x".repeat(3000))),
            _ => (200, "application/json", "{\"name\":\"rex\"}".to_owned()),
        };
        format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    })
    .await;
    let gateway = edge(&origin, "validate = { response = \"block\" }\nbody = \"2KiB\"").await;
    let want = |what: &str| send("GET", "/v1/pets", &format!("X-Want: {what}\r\n"), b"");
    assert_eq!(ask(&gateway, want("good")).await.text(), "{\"name\":\"rex\"}");
    for what in ["status", "type"] {
        assert_eq!(ask(&gateway, want(what)).await.status, 502, "{what}");
    }
    for what in ["body", "large"] {
        let mut client = Client::connect(gateway.addr("http")).await;
        client.send(want(what)).await;
        let got = client.try_response(false).await;
        assert!(got.is_none_or(|got| got.status == 502), "{what}: nothing of it is seen");
    }
    gateway.counts("portcullis_api_violations_total", &["kind=\"response_body\""], 3.0).await;
}

#[tokio::test]
async fn what_fits_arrives_octet_by_octet() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, &format!("{BLOCK}\nbody = \"8MiB\"")).await;
    for length in [1, 2_000, 65_536, 70_000, 200_000, 5_000_000] {
        let body = format!("{{\"name\":\"rex\",  \"text\":\"{}\"}}", "y".repeat(length));
        assert_eq!(ask(&gateway, json(&body)).await.status, 200, "{length}");
        assert!(origin.last().body == body.as_bytes(), "{length}, {} arrived", origin.last().body.len());
        let mut chunked =
            b"POST /v1/pets HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.as_bytes().chunks(70_001) {
            chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        assert_eq!(ask(&gateway, &chunked).await.status, 200, "{length} in chunks");
        assert!(origin.last().body == body.as_bytes(), "{length} in chunks, {} arrived", origin.last().body.len());
        // A type without a schema is not held, whatever its size.
        let octets: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let upload = send("POST", "/v1/pets", "Content-Type: application/octet-stream\r\n", &octets);
        assert_eq!(ask(&gateway, &upload).await.status, 200, "{length}");
        assert!(origin.last().body == octets, "{length}");
    }
    let small = edge(&origin, &format!("{BLOCK}\nbody = \"1KiB\"")).await;
    let large = json(&format!("{{\"name\":\"rex\",\"text\":\"{}\"}}", "y".repeat(2000)));
    assert_eq!(ask(&small, &large).await.status, 413);
    let telling = edge(&origin, "body = \"1KiB\"").await;
    assert_eq!(ask(&telling, &large).await.status, 200);
    assert!(audits(&telling, 1).await[0]["violations"][0]["kind"] == "body_too_large");
    let dead_first = Gateway::start_in(
        {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("api.yaml"), DOCUMENT).unwrap();
            folder
        },
        &format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[api.pets]\nopenapi = \"api.yaml\"\n{BLOCK}\n[upstream.app]\n\
             endpoints = [\"127.0.0.1:1\", {{ address = \"{}\", priority = 1 }}]\n[route.app]\nupstream = \"app\"\napi = \"pets\"\n",
            origin.addr
        ),
    )
    .await;
    assert_eq!(ask(&dead_first, json("{\"name\":\"rex\"}")).await.status, 200);
    assert_eq!(origin.last().body, b"{\"name\":\"rex\"}");
}

#[tokio::test]
async fn streams_are_not_held() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut out = respond.send_response(response, false).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(chunk)) = body.data().await {
                    out.send_data(chunk, false).unwrap();
                }
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api.yaml"), DOCUMENT).unwrap();
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "[listener.http]\naddress = \"127.0.0.1:0\"\n[api.pets]\nopenapi = \"api.yaml\"\nvalidate = {{ request = \"block\", response = \"block\", unknown = \"block\" }}\n\
             [upstream.app]\nprotocol = \"h2c\"\nendpoints = [\"{addr}\"]\n[route.app]\nupstream = \"app\"\napi = \"pets\"\n"
        ),
    )
    .await;
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    let request =
        http::Request::post("http://a.test/v1/call").header("content-type", "application/grpc").body(()).unwrap();
    let (response, mut stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    stream.send_data("\0\0\0\0\u{1}x".into(), false).unwrap();
    let within = std::time::Duration::from_secs(20);
    let mut body = tokio::time::timeout(within, response).await.unwrap().unwrap().into_body();
    let chunk = tokio::time::timeout(within, body.data()).await.expect("it does not wait").unwrap().unwrap();
    assert_eq!(chunk, "\0\0\0\0\u{1}x");
}

#[tokio::test]
async fn levels_add_up_and_only_relax_takes_away() {
    let origin = Origin::fixed("ok").await;
    let objects = format!(
        "[defaults]\napi = \"pets\"\nmay_relax = [\"api\"]\n[api.pets]\nopenapi = \"api.yaml\"\n{BLOCK}\n[api.also]\nopenapi = \"also.json\"\n{BLOCK}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api.yaml"), DOCUMENT).unwrap();
    let also = r#"{"openapi":"3.1.0","paths":{"/v1/pets/mine":{"get":{}},"/v1/x":{"get":{}}}}"#;
    std::fs::write(folder.path().join("also.json"), also).unwrap();
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{objects}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n\
         [route.app.rule.both]\npath = \"/v1/pets/mine\"\napi = \"also\"\n[route.app.rule.x]\npath = \"/v1/x\"\napi = \"also\"\n\
         [route.app.rule.own]\npath = \"/v1/x/own\"\nrelax = [\"api\"]\n",
        origin.addr
    );
    let gateway = Gateway::start_in(folder, &config).await;
    for (target, status) in [("/v1/pets", 200), ("/v1/pets/mine", 200), ("/v1/x", 404), ("/v1/x/own", 200), ("/", 404)]
    {
        assert_eq!(ask(&gateway, get(target)).await.status, status, "{target}");
    }
    let (_, out) = gateway.command(&["explain", "GET", "http://a/v1/x", "--config", "edge.toml"]).await;
    assert!(out.contains("api: looked at by pets and also"), "{out}");
}

#[tokio::test]
async fn mistakes_of_the_document_are_shown_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let head = "openapi: 3.1.0\npaths:\n";
    let deep = "[".repeat(150);
    for (document, keys, message) in [
        ("openapi: 3.1.0\npaths:\n  /a: [\n".to_owned(), "", "api.yaml:4"),
        ("swagger: '2.0'\n".to_owned(), "", "convert it to OpenAPI 3"),
        ("openapi: 4.0.0\npaths: {}\n".to_owned(), "", "api.yaml:1: `openapi: 4.0.0` is not a version"),
        (format!("{head}  /a:\n    $ref: '#/b'\n"), "", "api.yaml:3: `#/b` leads nowhere"),
        (format!("{head}  /a:\n    $ref: other.yaml\n"), "", "leads out of the document"),
        (
            format!("{head}  /a/{{id}}:\n    get:\n      parameters:\n        - {{ name: id, in: path }}\n"),
            "",
            "api.yaml:6: path parameter `id` must say",
        ),
        (
            format!("{head}  /a:\n    get:\n      parameters:\n        - {{ name: q, in: body }}\n"),
            "",
            "api.yaml:6: parameter `q`",
        ),
        (
            format!(
                "{head}  /a:\n    get:\n      parameters:\n        - {{ name: q, in: query, schema: {{ type: txt }} }}\n"
            ),
            "",
            "api.yaml:6: the schema cannot be used",
        ),
        (format!("{head}  a: {{}}\n"), "", "a path begins with `/`"),
        (format!("{head}  /a: {deep}\n"), "", "nested deeper than 100"),
        (format!("# {}\n{head}", "x".repeat(5 << 20)), "", "larger than 4 MiB"),
        (format!("{head}  /a: {{}}\n"), "body = \"1GiB\"", "at most 16MiB"),
        (format!("{head}  /a: {{}}\n"), "validate = { request = \"off\", unknown = \"off\" }", "everything is off"),
        (format!("{head}  /a: {{}}\n"), "[defaults]\napi = \"pest\"", "did you mean `pets`?"),
    ] {
        std::fs::write(folder.path().join("api.yaml"), document).unwrap();
        let base = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[route.app]\nupstream = \"app\"\napi = \"pets\"\n";
        std::fs::write(folder.path().join("edge.toml"), format!("{base}[api.pets]\nopenapi = \"api.yaml\"\n{keys}\n"))
            .unwrap();
        let (code, out) = run_in(folder.path(), &["check", "edge.toml"]).await;
        assert!(code == 1 && out.contains(message), "{message}\n{out}");
    }
}

#[tokio::test]
async fn a_document_is_learned_from_traffic_and_fits_it() {
    let origin = Origin::start(|seen: &Seen| {
        let status = if seen.path().starts_with("/wp-") { 404 } else { 200 };
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[telemetry]\naccess_log = {{ to = {{ file = \"access.log\" }} }}\n[listener.http]\naddress = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n[route.app.rule.other]\npath = \"/other\"\n",
        origin.addr
    ))
    .await;
    let targets = ["/users/1?full=true", "/users/2", "/users/77/orders?page=3", "/wp-admin.php", "/other/x"];
    for target in targets {
        ask(&gateway, get(target)).await;
    }
    eventually("access log", async || {
        let text = std::fs::read_to_string(gateway.path().join("access.log")).unwrap_or_default();
        (text.lines().count() >= targets.len()).then_some(())
    })
    .await;
    let (code, out) = gateway.command(&["api", "learn", "--from", "access.log", "--title", "mine"]).await;
    assert!(
        code == 0 && out.contains("/users/{p1}/orders") && out.contains("/other/x") && !out.contains("wp-admin"),
        "{out}"
    );
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["api", "learn", "--from", "access.log", "--route", "app"])
        .current_dir(gateway.path())
        .output()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api.yaml"), &output.stdout).unwrap();
    let config = format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[api.learned]\nopenapi = \"api.yaml\"\n{BLOCK}\n[upstream.app]\nendpoints = [\"{}\"]\n\
         [route.app]\nupstream = \"app\"\napi = \"learned\"\n",
        origin.addr
    );
    let strict = Gateway::start_in(folder, &config).await;
    for (target, status) in
        [("/users/5?full=false", 200), ("/users/9/orders?page=1", 200), ("/users/x", 400), ("/admin", 404)]
    {
        assert_eq!(ask(&strict, get(target)).await.status, status, "{target}");
    }
    let (code, out) = gateway.command(&["api", "learn", "--from", "missing.log"]).await;
    assert!(code == 2 && out.contains("missing.log cannot be read"), "{out}");
}

#[tokio::test]
async fn forms_with_files_and_styled_parameters_are_held_against_their_schemas() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, "validate = { request = \"block\" }").await;
    for (target, status) in [
        ("/v1/colors/;color=blue;color=black", 200),
        ("/v1/colors/;color=blue;color=red", 400),
        ("/v1/colors/blue", 400),
        ("/v1/colors/;color=blue?box=w,3,h,4", 200),
        ("/v1/colors/;color=blue?box=w,3,h,tall", 400),
        ("/v1/colors/;color=blue?box=w", 400),
    ] {
        assert_eq!(ask(&gateway, get(target)).await.status, status, "{target}");
    }
    let part = |name: &str, more: &str, content: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n{content}\r\n")
    };
    let file = part("file", "; filename=\"a.png\"\r\nContent-Type: image/png", "\u{1}\u{2}");
    let title = part("title", "", "cat");
    let json = |text: &str| part("more", "\r\nContent-Type: application/json", text);
    for (parts, status) in [
        (vec![title.clone(), file.clone()], 200),
        (vec![title.clone(), file.clone(), part("size", "", "7")], 200),
        (vec![title.clone(), file.clone(), json("{\"name\":\"rex\"}")], 200),
        (vec![title.clone(), file.clone(), json("{\"name\":\"REX\"}")], 400),
        (vec![title.clone(), file.clone(), part("size", "", "large")], 400),
        (vec![part("title", "", "much too long"), file.clone()], 400),
        (vec![title.clone()], 400),
        (vec![title, file, part("other", "", "x")], 400),
    ] {
        let body = format!("{}--B--\r\n", parts.concat());
        let request =
            send("POST", "/v1/pictures", "Content-Type: multipart/form-data; boundary=B\r\n", body.as_bytes());
        assert_eq!(ask(&gateway, request).await.status, status, "{body}");
    }
    let cut = send("POST", "/v1/pictures", "Content-Type: multipart/form-data; boundary=B\r\n", b"--B\r\n");
    assert_eq!(ask(&gateway, cut).await.status, 400);
}

/// A schema of XML says nothing to us: that is told, and may be refused.
#[tokio::test]
async fn what_has_a_schema_that_nobody_can_read_is_told_or_refused() {
    let origin = Origin::start(|seen: &Seen| {
        let kind = seen.header("x-want").unwrap_or("text/plain");
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 4\r\n\r\n<a/>").into_bytes()
    })
    .await;
    let note = |kind: &str, want: &str| {
        send("POST", "/v1/notes", &format!("Content-Type: {kind}\r\nX-Want: {want}\r\n"), b"<Pet/>")
    };
    for (validate, xml, csv, answer, told) in [
        ("request = \"block\"", 200, 200, 200, 1),
        ("request = \"block\", unsupported = \"off\"", 200, 200, 200, 0),
        ("request = \"block\", unsupported = \"block\"", 415, 200, 200, 1),
        ("response = \"log\", unsupported = \"block\"", 415, 200, 502, 2),
        ("request = \"off\", response = \"log\", unsupported = \"block\"", 200, 200, 502, 1),
    ] {
        let gateway = edge(&origin, &format!("validate = {{ {validate} }}")).await;
        assert_eq!(ask(&gateway, note("application/xml", "text/plain")).await.status, xml, "{validate}");
        assert_eq!(ask(&gateway, note("text/csv", "text/plain")).await.status, csv, "{validate}");
        assert_eq!(ask(&gateway, note("text/csv", "text/xml")).await.status, answer, "{validate}");
        let lines = audits(&gateway, told).await;
        let kinds = lines.iter().flat_map(|line| line["violations"].as_array().cloned().unwrap_or_default());
        let kinds: Vec<String> = kinds.map(|breach| breach["kind"].to_string()).collect();
        assert_eq!(kinds.len(), told, "{validate}: {kinds:?}");
        assert!(kinds.iter().all(|kind| kind.contains("unsupported")), "{kinds:?}");
    }
}
