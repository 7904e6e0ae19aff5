//! Parts of a blob: of one that is here, and of one that still comes.

use futures_util::future::join_all;

use crate::support::client::{self, read_at_least, same_bytes};
use crate::support::registry::{Fault, Gate, On};
use crate::support::scene::Scene;
use crate::support::wait::soon;

const MIB: usize = 1 << 20;

/// A scene whose layer is here.
async fn committed(size: usize) -> Scene {
    let scene = Scene::new(&[size]).await;
    scene.pull().await;
    scene.upstream.forget();
    scene
}

/// A scene whose layer has come up to `at`, and goes on when the gate is opened.
async fn growing(size: usize, at: usize) -> (Scene, Gate, reqwest::Response) {
    let scene = Scene::new(&[size]).await;
    scene.manifest().await;
    let gate = Gate::new();
    scene.upstream.fault(scene.on_layer(), Fault::HoldBody(at, gate.clone()));
    let mut response = scene.agent.open(&scene.layer_path()).await;
    read_at_least(&mut response, 1).await;
    gate.reached().await;
    (scene, gate, response)
}

#[tokio::test]
async fn ranges_of_a_stored_blob() {
    for size in [1000_usize, MIB] {
        let scene = committed(size).await;
        let cases = [
            ("bytes=0-0", 0, 1),
            ("bytes=0-99", 0, 100),
            ("bytes=100-199", 100, 200),
            ("bytes=500-", 500, size),
            ("bytes=-1", size - 1, size),
            ("bytes=-100", size - 100, size),
            ("bytes=-99999999", 0, size),
            ("bytes=990-99999999", 990, size),
            ("bytes=0-18446744073709551615", 0, size),
        ];
        for (range, start, end) in cases {
            let got = scene.agent.get_range(&scene.layer_path(), range).await.expect(206).expect_bytes(&scene.layer().bytes[start..end]);
            assert_eq!(got.header("content-range"), Some(format!("bytes {start}-{}/{size}", end - 1).as_str()), "{range}");
            assert_eq!(got.header("content-length"), Some((end - start).to_string().as_str()), "{range}");
        }
        assert_eq!(scene.upstream.count(&On::any()), 0);
    }
}

#[tokio::test]
async fn ranges_outside_a_blob_are_refused_with_its_size() {
    let scene = committed(1000).await;
    for range in ["bytes=1000-", "bytes=1000-1001", "bytes=9-1", "bytes=-0"] {
        let got = scene.agent.get_range(&scene.layer_path(), range).await.expect(416);
        assert_eq!(got.header("content-range"), Some("bytes */1000"), "{range}");
    }
    // A number that is none to us: either way is right.
    let got = scene.agent.get_range(&scene.layer_path(), "bytes=99999999999999999999-").await;
    assert!(matches!(got.status, 200 | 416), "{}", got.status);
}

#[tokio::test]
async fn ranges_that_are_none_are_ignored() {
    let scene = committed(1000).await;
    for range in ["bytes=a-b", "bytes", "bytes=-", "items=0-1", "bytes=0-1,5-6", "", "bytes=--1", "bytes=0x1-2"] {
        let got = scene.agent.get_range(&scene.layer_path(), range).await;
        assert_eq!(got.status, 200, "{range}");
        got.expect_bytes(&scene.layer().bytes);
    }
    let head = scene.agent.head(&scene.layer_path()).await.expect(200);
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
}

#[tokio::test]
async fn if_range_decides_between_part_and_whole() {
    let scene = committed(1000).await;
    let etag = scene.agent.head(&scene.layer_path()).await.header("etag").unwrap().to_owned();
    let same = [("range", "bytes=1-9"), ("if-range", etag.as_str())];
    scene.agent.get_with(&scene.layer_path(), &same).await.expect(206).expect_bytes(&scene.layer().bytes[1..10]);
    for other in ["\"other\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        let headers = [("range", "bytes=1-9"), ("if-range", other)];
        scene.agent.get_with(&scene.layer_path(), &headers).await.expect(200).expect_bytes(&scene.layer().bytes);
    }
    let unchanged = scene.agent.get_with(&scene.layer_path(), &[("if-none-match", etag.as_str())]).await.expect(304);
    assert!(unchanged.body.is_empty());
}

#[tokio::test]
async fn several_parts_at_once_begin_before_the_rest_exists_and_cost_one_download() {
    let (scene, gate, first) = growing(2 * MIB, MIB).await;
    let bytes = &scene.layer().bytes;
    let client = client::new();
    let mut open = Vec::new();
    for (start, end) in [(1, 2 * MIB), (300_000, 2 * MIB), (600_000, 2 * MIB), (0, 900_000), (100_000, MIB)] {
        let range = format!("bytes={start}-{}", end - 1);
        let request = client.get(scene.agent.url(&scene.layer_path())).header("range", range);
        let mut response = soon("a part's head", request.send()).await.unwrap();
        assert_eq!(response.status(), 206);
        let begin = read_at_least(&mut response, 10_000).await;
        open.push((start..end, begin, response));
    }
    gate.open();
    for (range, mut got, response) in open {
        got.extend_from_slice(&soon("the rest of a part", response.bytes()).await.unwrap());
        same_bytes(&got, &bytes[range]);
    }
    soon("the rest", first.bytes()).await.unwrap();
    assert_eq!((scene.upstream.count(&scene.on_layer()), scene.upstream.sent_bytes(&scene.on_layer())), (1, 2 * MIB as u64));
}

#[tokio::test]
async fn parts_that_have_not_come_wait_for_the_download() {
    let (scene, gate, _first) = growing(2 * MIB, 1000).await;
    let bytes = &scene.layer().bytes;
    let ranges = [("bytes=1500000-1599999", 1_500_000, 1_600_000), ("bytes=-1000", 2 * MIB - 1000, 2 * MIB), ("bytes=900-1100", 900, 1101)];
    let parts = join_all(ranges.map(|(range, start, end)| {
        let scene = &scene;
        async move { scene.agent.get_range(&scene.layer_path(), range).await.expect(206).expect_bytes(&bytes[start..end]) }
    }));
    let opening = async {
        scene.agent.get_range(&scene.layer_path(), &format!("bytes={}-", 2 * MIB)).await.expect(416);
        gate.open();
    };
    tokio::join!(parts, opening);
    assert_eq!(scene.upstream.count(&scene.on_layer()), 1);
}

#[tokio::test]
async fn a_cold_blob_may_be_fetched_in_parts_at_once() {
    let scene = Scene::new(&[2 * MIB]).await;
    scene.manifest().await;
    let bytes = &scene.layer().bytes;
    let part = 2 * MIB / 8;
    let parts = join_all((0..8).map(|i| {
        let scene = &scene;
        async move {
            let range = format!("bytes={}-{}", i * part, (i + 1) * part - 1);
            scene.agent.get_range(&scene.layer_path(), &range).await.expect(206).expect_bytes(&bytes[i * part..(i + 1) * part])
        }
    }));
    assert_eq!(parts.await.len(), 8);
    assert_eq!((scene.upstream.count(&scene.on_layer()), scene.upstream.sent_bytes(&scene.on_layer())), (1, 2 * MIB as u64));
    scene.get_layer().await;
}

#[tokio::test]
async fn a_part_is_served_of_a_blob_whose_length_upstream_does_not_say() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    scene.upstream.fault(scene.on_layer(), Fault::NoLength);
    let got = scene.agent.get_range(&scene.layer_path(), "bytes=1000-1999").await;
    let got = got.expect(206).expect_bytes(&scene.layer().bytes[1000..2000]);
    assert_eq!(got.header("content-range"), Some(format!("bytes 1000-1999/{MIB}").as_str()));
}

#[tokio::test]
async fn no_part_of_a_wrong_blob_ends_well() {
    let scene = Scene::new(&[MIB]).await;
    scene.manifest().await;
    scene.upstream.fault(scene.on_layer(), Fault::FlipFirst);
    for range in ["bytes=0-99", "bytes=1000-500000", "bytes=-10"] {
        let request = client::new().get(scene.agent.url(&scene.layer_path())).header("range", range);
        let answer = client::try_send(request).await;
        assert!(answer.as_ref().map_or(true, |got| got.status >= 500), "{range} {answer:?}");
    }
}
