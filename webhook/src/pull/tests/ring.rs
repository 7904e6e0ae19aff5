//! The keys in their Secret, from leader to leader.

use kuik_crd::PullKey;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::api::{CONFIGURATION, FakeApi, KEYS, ROLE};
use super::{auth, names};
use crate::board::{Board, Leadership, Wishes};
use crate::pull::Metrics;
use crate::pull::ring::Ring;

const NOW: u64 = 1_800_000_000;

/// A leader that tells agents what it wishes.
fn board() -> Board {
    let board = Board::default();
    board.lead(Leadership::Us);
    board.wish(Some(Wishes::default()));
    board
}

fn ring(api: &FakeApi, board: &Board) -> Ring {
    let metrics = Metrics::register(&mut Registry::default());
    Ring::new(api.client(), names().into(), auth(600, 1800), board.clone(), metrics)
}

fn published(board: &Board) -> Vec<PullKey> {
    board.wishes().borrow().as_ref().and_then(|wishes| wishes.pull_keys.clone()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_told_and_taken_over_by_the_next_leader() {
    let (api, board) = (FakeApi::new(&[]), board());
    let (held, next) = ring(&api, &board).turn(NOW).await.unwrap();
    assert_eq!(next.as_secs(), 1200);
    assert_eq!(published(&board), [held.signer.key().clone()]);
    let secret = api.get(KEYS).unwrap();
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "role-uid");
    assert_eq!(
        (secret["metadata"]["ownerReferences"][0]["kind"].as_str(), secret["type"].as_str()),
        (Some("ClusterRole"), Some("kuik.enix.io/pull-keys"))
    );
    api.writes();
    let other = self::board();
    let (again, _) = ring(&api, &other).turn(NOW + 1).await.unwrap();
    assert_eq!((again.signer.key(), published(&other)), (held.signer.key(), published(&board)));
    assert_eq!(api.writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn keys_follow_each_other_and_agents_hear_of_each_before_it_signs() {
    let (api, board) = (FakeApi::new(&[]), board());
    let mut ring = ring(&api, &board);
    let (mut now, mut keys, mut heard) = (NOW, Vec::new(), Vec::new());
    while now < NOW + 8000 {
        let (held, next) = ring.turn(now).await.unwrap();
        if keys.last() != Some(held.signer.key()) {
            assert!(keys.is_empty() || heard.contains(held.signer.key()));
            keys.push(held.signer.key().clone());
        }
        heard = published(&board);
        now += next.as_secs();
    }
    assert_eq!(keys.len(), 5, "one in 1800 s");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_secret_is_put_right_by_who_knows_the_keys_and_replaced_by_who_does_not() {
    let (api, board) = (FakeApi::new(&[]), board());
    let mut knowing = ring(&api, &board);
    let key = knowing.turn(NOW).await.unwrap().0.signer.key().clone();
    let damages =
        [json!({}), json!({"data": {"current": "bm8ganNvbg=="}}), json!({"data": {"current": "e30=", "next": "e30=", "previous": "W10="}})];
    for damage in damages {
        let mut secret = api.get(KEYS).unwrap();
        secret["data"] = damage["data"].clone();
        api.put(KEYS, secret);
        assert_eq!(*knowing.turn(NOW + 1).await.unwrap().0.signer.key(), key, "{damage}");
        let kept = ring(&api, &self::board()).turn(NOW + 2).await.unwrap().0;
        assert_eq!(*kept.signer.key(), key, "{damage}");
    }
    api.remove(KEYS);
    assert_eq!(*knowing.turn(NOW + 3).await.unwrap().0.signer.key(), key);
    api.remove(KEYS);
    let other = ring(&api, &self::board()).turn(NOW + 4).await.unwrap().0;
    assert_ne!(*other.signer.key(), key);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_that_is_not_kept() {
    let (api, board) = (FakeApi::new(&[]), board());
    api.refuse(Some(("secrets", 500)));
    let error = ring(&api, &board).turn(NOW).await.unwrap_err();
    assert_eq!((error.step(), published(&board)), ("write", vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_webhook_configuration_is_the_owner_where_the_role_is_not_the_charts() {
    let (api, board) = (FakeApi::new(&[]), board());
    api.remove(ROLE);
    assert_eq!(ring(&api, &board).turn(NOW).await.unwrap_err().step(), "owner");
    api.put(CONFIGURATION, json!({"metadata": {"name": "kube-image-keeper", "uid": "configuration-uid"}}));
    let (held, _) = ring(&api, &board).turn(NOW).await.unwrap();
    assert_eq!((held.owner.kind.as_str(), held.owner.uid.as_str()), ("MutatingWebhookConfiguration", "configuration-uid"));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_which_agents_are_told_nothing_does_not_sign() {
    let (api, board) = (FakeApi::new(&[]), board());
    let mut ring = ring(&api, &board);
    let first = ring.turn(NOW).await.unwrap().0.signer.key().clone();
    ring.turn(NOW + 1200).await.unwrap();
    // The leader has not seen the cluster: agents are answered that they are to wait.
    board.wish(None);
    for now in [NOW + 1300, NOW + 1800, NOW + 9000] {
        assert_eq!(*ring.turn(now).await.unwrap().0.signer.key(), first, "{now}");
    }
    board.wish(Some(Wishes::default()));
    ring.turn(NOW + 9000).await.unwrap();
    assert_eq!(*ring.turn(NOW + 9149).await.unwrap().0.signer.key(), first, "a quarter of a token's life is 150 s");
    assert_ne!(*ring.turn(NOW + 9150).await.unwrap().0.signer.key(), first);
}
