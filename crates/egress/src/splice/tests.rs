use super::*;
use std::{future::pending, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn octets_pass_both_ways_and_each_end_is_told() {
    let (mut client, client_side) = pair().await;
    let (mut origin, origin_side) = pair().await;
    let (pool, moved) = (Arc::new(PipePool::new(4 << 20)), Arc::new(Moved::default()));
    let tunnel = {
        let (pool, moved) = (pool.clone(), moved.clone());
        tokio::spawn(async move { relay(client_side, origin_side, &pool, &moved, LONG, pending()).await })
    };
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let echo = tokio::spawn(async move {
        let mut all = Vec::new();
        origin.read_to_end(&mut all).await.unwrap();
        origin.write_all(&all).await.unwrap();
        origin.shutdown().await.unwrap();
        all.len()
    });
    client.write_all(&sent).await.unwrap();
    // The half-close passes through, and the other direction stays open.
    client.shutdown().await.unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).await.unwrap();
    assert!(back == sent && echo.await.unwrap() == sent.len());
    assert!(matches!(tunnel.await.unwrap(), TunnelEnd::Finished));
    let octets = sent.len() as u64;
    assert_eq!((moved.up.load(Ordering::Relaxed), moved.down.load(Ordering::Relaxed)), (octets, octets));
    let pipes = pool.lock();
    let at_rest = pipes.short.iter().chain(&pipes.long).map(|pipe| pipe.size).sum::<usize>();
    assert!(pipes.bytes <= 4 << 20 && at_rest == pipes.bytes);
}

#[tokio::test]
async fn a_reset_passes_through_as_a_reset() {
    let (client, client_side) = pair().await;
    let (mut origin, origin_side) = pair().await;
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let end = relay(client_side, origin_side, &PipePool::new(1 << 20), &Moved::default(), LONG, pending()).await;
    assert!(matches!(end, TunnelEnd::Broken(_)), "{end:?}");
    assert_eq!(origin.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_idle_or_cut_ends() {
    let (_client, client_side) = pair().await;
    let (_origin, origin_side) = pair().await;
    let end = relay(
        client_side,
        origin_side,
        &PipePool::new(1 << 20),
        &Moved::default(),
        Duration::from_millis(5),
        pending(),
    )
    .await;
    assert!(matches!(end, TunnelEnd::Idle));
    let (_client, client_side) = pair().await;
    let (_origin, origin_side) = pair().await;
    let cut = async { Reason::Expired };
    let end = relay(client_side, origin_side, &PipePool::new(1 << 20), &Moved::default(), LONG, cut).await;
    assert!(matches!(end, TunnelEnd::Cut(Reason::Expired)));
}

#[tokio::test]
async fn pipes_have_an_end_and_one_with_octets_in_it_is_nobody_elses() {
    let pool = PipePool::new(2 * PIPE_BYTES);
    let count = |pool: &PipePool| {
        let pipes = pool.lock();
        (pipes.bytes / PIPE_BYTES, pipes.short.len())
    };
    // Of the long ones there is no room for one.
    let (one, two) = (pool.take(LONG_AFTER).unwrap(), pool.take(0).unwrap());
    assert!(pool.take(0).is_none() && pool.take(LONG_AFTER).is_none());
    drop(one);
    assert_eq!(count(&pool), (2, 1));
    let mut two = two;
    two.held = 5;
    drop(two);
    assert_eq!(count(&pool), (1, 1));
    // Tunnels that find no pipe copy, and lose nothing.
    let pool = PipePool::new(0);
    let (mut client, client_side) = pair().await;
    let (mut origin, origin_side) = pair().await;
    let sides = async {
        let (sent, mut all) = (vec![7; 3_000_000], Vec::new());
        let send = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(send, origin.read_to_end(&mut all));
        read.unwrap();
        drop(origin);
        all == sent
    };
    let moved = Moved::default();
    let (all, end) = tokio::join!(sides, relay(client_side, origin_side, &pool, &moved, LONG, pending()));
    assert!(all && matches!(end, TunnelEnd::Finished), "{end:?}");
}

#[tokio::test]
async fn messages_hold_no_pipe_and_bulk_gives_its_own_back() {
    let (mut client, client_side) = pair().await;
    let (mut origin, origin_side) = pair().await;
    let (pool, moved) = (Arc::new(PipePool::new(4 << 20)), Arc::new(Moved::default()));
    let tunnel = {
        let (pool, moved) = (pool.clone(), moved.clone());
        tokio::spawn(async move { relay(client_side, origin_side, &pool, &moved, LONG, pending()).await })
    };
    for _ in 0..3 {
        let mut buffer = [0; 4];
        client.write_all(b"ping").await.unwrap();
        origin.read_exact(&mut buffer).await.unwrap();
        origin.write_all(b"pong").await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
    }
    assert_eq!(pool.lock().bytes, 0);
    let (sent, mut all) = (vec![7; 8 << 20], vec![0; 8 << 20]);
    let (wrote, read) = tokio::join!(origin.write_all(&sent), client.read_exact(&mut all));
    assert!(wrote.is_ok() && read.is_ok() && all == sent);
    client.shutdown().await.unwrap();
    origin.shutdown().await.unwrap();
    assert!(matches!(tunnel.await.unwrap(), TunnelEnd::Finished));
    let pipes = pool.lock();
    let at_rest = pipes.short.iter().chain(&pipes.long).map(|pipe| pipe.size).sum::<usize>();
    assert!(pipes.bytes > 0 && at_rest == pipes.bytes);
}
