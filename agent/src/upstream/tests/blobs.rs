//! Blobs: where they begin, where they end, and what is made of those that do neither as they should.

use tokio::time::Instant;

use super::support::*;
use crate::upstream::{BlobStream, Errand, UpstreamError};

const BLOB: &[u8] = b"0123456789";

/// Serves [`BLOB`] with ranges.
fn ranged(seen: &Seen) -> Reply {
    let Some(from) = seen.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')) else {
        return Reply::ok(BLOB);
    };
    let from: usize = from.parse().unwrap();
    if from >= BLOB.len() {
        return Reply::status(416).header("content-range", &format!("bytes */{}", BLOB.len()));
    }
    partial(&format!("bytes {from}-9/10")).bytes(&BLOB[from..])
}

fn partial(range: &str) -> Reply {
    Reply::status(206).header("content-range", range)
}

async fn get(server: &Server, from: u64) -> Result<BlobStream, UpstreamError> {
    mk_for(server).get_blob(&repo(&server.registry, "a"), &digest(BLOB), from, &[]).await
}

/// What comes of asking for the bytes from `from` on, where this is the answer.
async fn told(from: u64, reply: Reply) -> Result<(Option<u64>, Vec<u8>), UpstreamError> {
    let server = Server::http(move |_| reply.clone()).await;
    let blob = get(&server, from).await?;
    let size = blob.size;
    read(blob).await.map(|bytes| (size, bytes))
}

#[tokio::test]
async fn a_blob_begins_where_it_is_asked_to() {
    let server = Server::http(ranged).await;
    let blob = get(&server, 0).await.unwrap();
    assert_eq!(blob.size, Some(10));
    assert_eq!(blob.endpoint.to_string(), format!("http://{}", server.host()));
    assert_eq!(read(blob).await.unwrap(), BLOB);
    assert_eq!(server.last().header("range"), "", "the whole is asked for without a range");
    for from in 1..=10 {
        let blob = get(&server, from).await.unwrap();
        assert_eq!(blob.size, Some(10));
        assert_eq!(read(blob).await.unwrap(), &BLOB[usize::try_from(from).unwrap()..], "{from}");
        assert_eq!(server.last().header("range"), format!("bytes={from}-"));
    }
    let error = get(&server, 11).await.unwrap_err();
    assert_eq!(error.reason(), "protocol", "beyond the end: {error}");
}

#[tokio::test]
async fn a_server_without_ranges_has_its_first_bytes_skipped() {
    for from in 0..=10 {
        let chunked = Reply::status(200).bytes("01").bytes("234").bytes("5").bytes("6789");
        let want = BLOB[usize::try_from(from).unwrap()..].to_vec();
        assert_eq!(told(from, chunked).await.unwrap(), (None, want.clone()), "{from}");
        assert_eq!(told(from, Reply::ok(BLOB)).await.unwrap(), (Some(10), want), "{from}");
    }
    assert_eq!(told(11, Reply::ok(BLOB)).await.unwrap_err().reason(), "protocol");
    assert_eq!(told(11, Reply::status(200).bytes(BLOB)).await.unwrap_err().reason(), "broken");
}

#[tokio::test]
async fn an_answer_to_another_range_is_refused() {
    for range in ["bytes 3-9/10", "bytes 0-9/10", "bytes 5-9/10", "bytes */10", "items 4-9/10", "", "x"] {
        let error = told(4, partial(range).bytes("456789")).await.unwrap_err();
        assert_eq!(error.reason(), "protocol", "{range}: {error}");
    }
    assert_eq!(told(4, Reply::status(206).bytes("456789")).await.unwrap_err().reason(), "protocol");
    for reply in [Reply::status(416), Reply::status(416).header("content-range", "bytes */12")] {
        assert_eq!(told(4, reply).await.unwrap_err().reason(), "protocol");
    }
    assert_eq!(told(0, Reply::status(416)).await.unwrap_err().reason(), "status");
}

#[tokio::test]
async fn an_answer_is_held_to_its_length() {
    assert_eq!(told(4, partial("bytes 4-9/*").bytes("456789")).await.unwrap(), (None, b"456789".to_vec()));
    assert_eq!(told(4, partial("bytes 4-9/10").bytes("45678")).await.unwrap_err().reason(), "broken");
    assert_eq!(told(4, partial("bytes 4-9/10").bytes("456789x")).await.unwrap_err().reason(), "protocol");
    let error = told(4, partial("bytes 4-6/10").bytes("456")).await.unwrap_err();
    assert_eq!(error.reason(), "broken", "a part of what was asked for is to be gone on from: {error}");
    assert!(error.to_string().ends_with("it ended at byte 7 of 10"), "{error}");
}

#[tokio::test]
async fn a_break_and_a_stall_are_told_after_the_bytes_before_them() {
    use futures_util::StreamExt as _;
    for (piece, reason) in [(Piece::Break, "broken"), (Piece::Hang, "stalled")] {
        let server = Server::http(move |_| Reply::status(200).header("content-length", "10").bytes("0123").then(piece.clone())).await;
        let mut blob = get(&server, 0).await.unwrap();
        assert_eq!(blob.body.next().await.unwrap().unwrap(), "0123");
        assert_eq!(blob.body.next().await.unwrap().unwrap_err().reason(), reason);
        assert!(blob.body.next().await.is_none());
    }
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_no_stall() {
    use futures_util::StreamExt as _;
    let server = Server::http(|_| Reply::status(200).bytes("01").bytes("23")).await;
    let mut blob = get(&server, 0).await.unwrap();
    blob.body.next().await.unwrap().unwrap();
    tokio::time::sleep(STALL + STALL / 4).await;
    while let Some(chunk) = blob.body.next().await {
        chunk.unwrap();
    }
}

#[tokio::test]
async fn a_blob_that_trickles_is_no_stall() {
    let server = Server::http(|_| {
        let at = |nth: u32| Piece::At(Instant::now() + STALL * nth * 2 / 5);
        Reply::status(200).bytes("01").then(at(1)).bytes("23").then(at(2)).bytes("45").then(at(3)).bytes("67").then(at(4)).bytes("89")
    })
    .await;
    assert_eq!(read(get(&server, 0).await.unwrap()).await.unwrap(), BLOB);
}

#[tokio::test]
async fn a_blob_may_be_asked_for_without_its_bytes() {
    let server = Server::http(|seen| match seen.path.split('/').nth(2).unwrap() {
        "sized" => Reply::status(200).header("content-length", "77"),
        "unsized" => Reply::status(200).header("transfer-encoding", "chunked"),
        _ => Reply::status(404),
    })
    .await;
    let upstream = mk_for(&server);
    let head = async |name: &str| upstream.head_blob(&repo(&server.registry, name), &digest(BLOB)).await;
    assert_eq!(head("sized").await, Ok(Some(77)));
    assert_eq!(server.last().method, "HEAD");
    assert_eq!(head("unsized").await, Ok(None));
    assert!(head("absent").await.unwrap_err().is_not_found());
}

async fn avoiding(upstream: &Errand, avoid: &BlobStream) -> BlobStream {
    upstream.get_blob(&mirrored(), &digest(BLOB), 0, std::slice::from_ref(&avoid.endpoint)).await.unwrap()
}

#[tokio::test]
async fn an_avoided_endpoint_is_asked_last() {
    let (first, second) = (Server::http(ranged).await, Server::http(ranged).await);
    let upstream = mk_upstream(mk_mirrors(&[&first.registry, &second.registry]));
    let blob = upstream.get_blob(&mirrored(), &digest(BLOB), 0, &[]).await.unwrap();
    assert_eq!(blob.endpoint.to_string(), format!("http://{}", first.host()));
    let blob = avoiding(&upstream, &blob).await;
    assert_eq!(blob.endpoint.to_string(), format!("http://{}", second.host()));

    let alone = mk_upstream(mk_mirrors(&[&first.registry]));
    let blob = alone.get_blob(&mirrored(), &digest(BLOB), 0, &[]).await.unwrap();
    assert_eq!(avoiding(&alone, &blob).await.endpoint, blob.endpoint, "the only one is asked all the same");
}

#[tokio::test]
async fn a_wrong_range_at_one_endpoint_leads_to_the_next() {
    let (wrong, right) = (Server::http(|_| partial("bytes 0-9/10").bytes(BLOB)).await, Server::http(ranged).await);
    let upstream = mk_upstream(mk_mirrors(&[&wrong.registry, &right.registry]));
    let blob = upstream.get_blob(&mirrored(), &digest(BLOB), 4, &[]).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), &BLOB[4..]);
}

#[tokio::test]
async fn an_endpoint_that_stalls_amid_a_blob_is_asked_last_for_a_while() {
    let stalls = Server::http(|_| Reply::status(200).header("content-length", "10").bytes("0123").then(Piece::Hang)).await;
    let works = Server::http(ranged).await;
    let upstream = mk_upstream(mk_mirrors(&[&stalls.registry, &works.registry]));
    let get = async || upstream.get_blob(&mirrored(), &digest(BLOB), 0, &[]).await.unwrap();
    read(get().await).await.unwrap_err();
    assert_eq!(get().await.endpoint.to_string(), format!("http://{}", works.host()));
}
