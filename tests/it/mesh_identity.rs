//! A sidecar's identity while it is in use: rotated, rolled over to another root, missing, spoilt.

use crate::support::{
    authority::Authority,
    client::Client,
    eventually,
    mesh::{Mesh, allow, outbound, workload_table},
    origin::Origin,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Requests without a pause, on fresh and kept connections, until told to stop: how many there were and how many failed.
fn load(addr: std::net::SocketAddr, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<(u64, u64)> {
    tokio::spawn(async move {
        let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        while !stop.load(Relaxed) {
            let mut client = Client::connect(addr).await;
            for _ in 0..20 {
                let answer = client.get("api", "/").await;
                done.fetch_add(1, Relaxed);
                if answer.status != 200 {
                    failed.fetch_add(1, Relaxed);
                    break;
                }
            }
        }
        (done.load(Relaxed), failed.load(Relaxed))
    })
}

#[tokio::test]
async fn certificates_rotate_under_load_and_roots_roll_over_without_one_failure() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..4).map(|_| load(cart.addr("outbound"), stop.clone())).collect();
    let sides = [(&api, "acme.lab/api"), (&cart, "acme.lab/cart")];
    let next = Authority::new("next root");
    let both = mesh.root.certificate_pem.clone() + &next.certificate_pem;
    let old = &mesh.root.certificate_pem;
    let mut taken = 0.0;
    // Leaves of the old root, then both roots believed, leaves of the new one, and the old root forgotten.
    let steps =
        [(&mesh.root, old), (&mesh.root, old), (&mesh.root, &both), (&next, &both), (&next, &next.certificate_pem)];
    for (signer, bundle) in steps {
        taken += 1.0;
        for (side, who) in sides {
            mesh.write(side.path(), &signer.leaf(&[&Mesh::id(who)]), bundle);
        }
        for (side, _) in sides {
            eventually("the new identity is in use", async || {
                (side.metric("portcullis_mesh_identity_renewals_total", &["taken"]).await >= taken).then_some(())
            })
            .await;
        }
    }
    // Connections that were made before are still good; new ones are made by the new root.
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Relaxed);
    for load in loads {
        let (done, failed) = load.await.unwrap();
        assert!(done > 50 && failed == 0, "{failed} of {done} failed\n{}", cart.log());
    }
    let left = api.metric("portcullis_mesh_identity_expiry_seconds", &[]).await;
    assert!((80.0 * 86400.0..91.0 * 86400.0).contains(&left), "{left}");
}

#[tokio::test]
async fn the_last_valid_identity_stays_whatever_becomes_of_the_files() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    std::fs::write(api.path().join("svid.crt"), "junk").unwrap();
    std::fs::remove_file(cart.path().join("svid.key")).unwrap();
    for side in [&api, &cart] {
        eventually("the trouble is told", async || side.log().contains("the last one is kept").then_some(())).await;
    }
    assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.status, 200);
    assert!(api.metric("portcullis_mesh_identity_expiry_seconds", &[]).await > 0.0);
}

#[tokio::test]
async fn a_sidecar_that_starts_before_its_certificate_is_issued_waits_for_it() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let config = [workload_table("acme.lab/cart"), outbound("acme.lab/api", &[api.addr("inbound")])].concat();
    let cart = crate::support::gateway::Gateway::start(&config).await;
    assert!(cart.log().contains("there is no identity yet"), "{}", cart.log());
    assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.status, 502);
    mesh.write(cart.path(), &mesh.leaf("acme.lab/cart"), &mesh.root.certificate_pem);
    eventually("it can call", async || {
        (Client::connect(cart.addr("outbound")).await.get("api", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_another_service_is_not_talked_to() {
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let impostor = mesh.server("acme.lab/impostor", app.addr, &allow("all", "*")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", impostor.addr("inbound"), "").await;
    assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.status, 502);
    assert!(cart.metric("portcullis_mesh_refusals_total", &["outbound", "other_service"]).await >= 1.0);
    let (_, status) = cart.admin("GET", "/mesh", "").await;
    assert_eq!(status["peers"][0]["last_deny"]["reason"], "other_service", "{status}");
    assert!(app.requests().is_empty());
    // Unless it is written that this is who serves it.
    let more = "[service.api2]\nnamespace = \"acme.lab\"\nupstream = \"api2\"\nspiffe = [\"spiffe://corp/ns/acme.lab/sa/impostor\"]\n";
    let more = format!(
        "{more}[upstream.api2]\nendpoints = [\"{}\"]\n[listener.second]\naddress = \"127.0.0.1:0\"\ndirection = \"outbound\"\nto = \"api2\"\n",
        impostor.addr("inbound")
    );
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", impostor.addr("inbound"), &more).await;
    assert_eq!(Client::connect(cart.addr("second")).await.get("api", "/").await.status, 200);
}

#[tokio::test]
async fn an_identity_that_is_over_proves_nothing_is_seen_and_ends_the_connections_that_it_opened() {
    let mesh = Mesh::new();
    let app = Origin::raw(|mut stream| async move {
        let mut head = [0; 4096];
        while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    })
    .await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let own = crate::support::mesh::inbound(app.addr);
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), &own).await;
    let id = Mesh::id("acme.lab/cart");
    let short = mesh.root.leaf_valid(&[&id], time::Duration::seconds(6));
    mesh.write(cart.path(), &short, &mesh.root.certificate_pem);
    eventually("the short one is in use", async || {
        (cart.metric("portcullis_mesh_identity_expiry_seconds", &[]).await < 7.0).then_some(())
    })
    .await;
    // A stream of octets and a request, both by the short one.
    let mut octets = TcpStream::connect(cart.addr("outbound")).await.unwrap();
    octets.write_all(b"\x01GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    octets.read_exact(&mut answer).await.unwrap();
    assert_eq!(Client::connect(cart.addr("outbound")).await.get("api", "/").await.status, 200);
    // Cut when the certificate is over, and not before.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), octets.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.ends_with(b"\r\n"), "{ended:?}");
    assert!(short.is_over(), "cut before its time");
    eventually("it is said", async || cart.log().contains("the identity is over").then_some(())).await;
    let refused = Client::connect(cart.addr("outbound")).await.get("api", "/").await.status;
    assert_eq!(refused, 502, "{}", cart.log());
    let (_, status) = cart.admin("GET", "/mesh", "").await;
    assert_eq!(status["workload"]["identity"], "identity_expired", "{status}");
    assert!(status["workload"]["seconds_to_expiry"].as_i64().unwrap() <= 0, "{status}");
    assert_eq!(status["peers"][0]["last_deny"]["reason"], "identity_expired", "{status}");
    assert!(cart.metric("portcullis_mesh_refusals_total", &["outbound", "identity_expired"]).await >= 1.0);
    assert_eq!(cart.metric("portcullis_mesh_identity_renewals_total", &["expired"]).await, 1.0);
    assert_eq!(cart.admin("GET", "/ready", "").await.0, 503);
    // Of the other side as well: a caller that might speak in the clear is told by an alert, and does not.
    let folder = tempfile::tempdir().unwrap();
    let permissive = [outbound("acme.lab/api", &[cart.addr("inbound")]), "[mtls]\nmode = \"permissive\"\n".to_owned()];
    let caller = mesh.workload(folder.path(), "acme.lab/other") + &permissive.concat();
    let caller = crate::support::gateway::Gateway::start_in(folder, &caller).await;
    assert_eq!(Client::connect(caller.addr("outbound")).await.get("api", "/").await.status, 502);
    eventually("it is counted", async || {
        (cart.metric("portcullis_mesh_refusals_total", &["inbound", "identity_expired"]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(caller.metric("portcullis_mesh_plain_fallbacks_total", &[]).await, 0.0);
    // The next one mends it.
    mesh.write(cart.path(), &mesh.leaf("acme.lab/cart"), &mesh.root.certificate_pem);
    eventually("it can call again", async || {
        (Client::connect(cart.addr("outbound")).await.get("api", "/").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(cart.admin("GET", "/ready", "").await.0, 200);
    assert_eq!(cart.metric("portcullis_mesh_identity_renewals_total", &["expired"]).await, 1.0);
}

/// `MESH_ROTATION_SECONDS` makes it long: the whole of it is 120 s with a leaf every 10 s.
#[tokio::test]
async fn leaves_of_seconds_are_replaced_all_the_time_and_nobody_notices() {
    let seconds = |name: &str, otherwise: u64| -> u64 {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let (whole, every) = (seconds("MESH_ROTATION_SECONDS", 12), seconds("MESH_ROTATION_EVERY", 1));
    let mesh = Mesh::new();
    let app = Origin::fixed("hello").await;
    let api = mesh.server("acme.lab/api", app.addr, &allow("cart", "service:cart")).await;
    let cart = mesh.client("acme.lab/cart", "acme.lab/api", api.addr("inbound"), "").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..4).map(|_| load(cart.addr("outbound"), stop.clone())).collect();
    // Good for six turns: connections outlive several identities, and none outlives its own.
    let life = time::Duration::seconds(i64::try_from(6 * every).unwrap());
    for _ in 0..whole / every {
        for (side, who) in [(&api, "acme.lab/api"), (&cart, "acme.lab/cart")] {
            mesh.write(side.path(), &mesh.root.leaf_valid(&[&Mesh::id(who)], life), &mesh.root.certificate_pem);
        }
        tokio::time::sleep(Duration::from_secs(every)).await;
    }
    stop.store(true, Relaxed);
    for load in loads {
        let (done, failed) = load.await.unwrap();
        assert!(done > 50 && failed == 0, "{failed} of {done} failed\n{}", cart.log());
    }
    for side in [&api, &cart] {
        let taken = side.metric("portcullis_mesh_identity_renewals_total", &["taken"]).await;
        assert!(taken >= (whole / every) as f64 / 2.0, "{taken}");
    }
}
