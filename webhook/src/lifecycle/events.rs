//! Events about our objects and about pods, those about `CachedImage`s with kuik v1's reasons: each is sent once, and not more in a second than an API
//! server likes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::metrics::Metrics;
use super::pace::Pace;
use super::plan::Note;

/// The name that Events come from.
const CONTROLLER: &str = "kube-image-keeper";

/// Where Events about objects without a namespace go.
const NAMESPACE: &str = "default";

/// The most characters of the object's name that an Event's name begins with; 253 are allowed, and the time follows.
const NAME_MAX_CHARS: usize = 230;

/// Events that wait; more are dropped.
const WAITING_MAX: usize = 2_000;

/// The same is not said again about the same object for so long.
const SAID_FOR: Duration = Duration::from_secs(600);

/// What was said is remembered for so many.
const SAID_MAX: usize = 10_000;

/// Events in a second, and at once.
const RATE: (u32, u32) = (10, 100);

/// The most that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of an Event's note, which the API server limits to 1024.
const NOTE_MAX_BYTES: usize = 1_000;

/// Where Events are given up. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    waiting: mpsc::Sender<(ObjectReference, Note)>,
    metrics: Metrics,
}

/// Sends the Events that are given to [`Events`].
pub(crate) struct Sender {
    client: Client,
    instance: String,
    waiting: mpsc::Receiver<(ObjectReference, Note)>,
    said: Said,
    metrics: Metrics,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// What was said lately.
#[derive(Debug, Default)]
struct Said {
    at: HashMap<u64, Instant>,
}

/// The two ends.
pub(crate) fn events(client: Client, instance: String, metrics: Metrics) -> (Events, Sender) {
    let (give, take) = mpsc::channel(WAITING_MAX);
    let sender = Sender { client, instance, waiting: take, said: Said::default(), metrics: metrics.clone() };
    (Events { waiting: give, metrics }, sender)
}

impl Events {
    /// Says something about an object, sooner or later, or never when too much waits.
    pub(crate) fn say(&self, about: ObjectReference, note: Note) {
        if self.waiting.try_send((about, note)).is_err() {
            self.metrics.event_dropped();
        }
    }
}

impl Sender {
    /// Sends until there is nobody left to say anything.
    pub(crate) async fn run(mut self) {
        let pace = Pace::new(RATE.0, RATE.1);
        while let Some((about, note)) = self.waiting.recv().await {
            if !self.said.is_new(&about, &note) {
                continue;
            }
            pace.turn().await;
            let name = about.name.as_deref().unwrap_or_default();
            match timeout(REQUEST_TIMEOUT, self.send(&about, &note)).await {
                Ok(Ok(())) => debug!(object = name, reason = note.reason, "said"),
                Ok(Err(error)) => {
                    self.metrics.event_dropped();
                    warn!(object = name, reason = note.reason, %error, "the Event could not be sent");
                }
                Err(_) => {
                    self.metrics.event_dropped();
                    warn!(object = name, reason = note.reason, "the Event could not be sent in {REQUEST_TIMEOUT:?}");
                }
            }
        }
    }

    /// One Event. kube's recorder would count up an earlier one with the same reason and keep that one's text, and its names can be too
    /// long, so this is our own.
    async fn send(&self, about: &ObjectReference, note: &Note) -> kube::Result<()> {
        let events = Api::namespaced(self.client.clone(), namespace(about));
        events.create(&PostParams::default(), &self.event(about, note, Timestamp::now())).await.map(drop)
    }

    fn event(&self, about: &ObjectReference, note: &Note, now: Timestamp) -> Event {
        let name: String = about.name.iter().flat_map(|name| name.chars()).take(NAME_MAX_CHARS).collect();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", name.trim_end_matches(['.', '-']), now.as_nanosecond())),
                namespace: Some(namespace(about).to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(note.reason.to_owned()),
            note: Some(note.text[..note.text.floor_char_boundary(NOTE_MAX_BYTES)].to_owned()),
            action: Some(note.reason.to_owned()),
            regarding: Some(about.clone()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

/// An Event is where the object is that it is about.
fn namespace(about: &ObjectReference) -> &str {
    about.namespace.as_deref().unwrap_or(NAMESPACE)
}

impl Said {
    fn is_new(&mut self, about: &ObjectReference, note: &Note) -> bool {
        let mut hasher = DefaultHasher::new();
        (&about.uid, &about.namespace, &about.name, note.reason, &note.text).hash(&mut hasher);
        let (key, now) = (hasher.finish(), Instant::now());
        if self.at.get(&key).is_some_and(|at| now - *at < SAID_FOR) {
            return false;
        }
        if self.at.len() >= SAID_MAX {
            self.at.retain(|_, at| now - *at < SAID_FOR);
        }
        if self.at.len() < SAID_MAX {
            self.at.insert(key, now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str) -> ObjectReference {
        ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() }
    }

    fn note(text: &str) -> Note {
        Note { is_warning: false, reason: "Cached", text: text.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_in_ten_minutes() {
        let mut said = Said::default();
        assert!(said.is_new(&about("a"), &note("x")));
        assert!(!said.is_new(&about("a"), &note("x")));
        assert!(said.is_new(&about("b"), &note("x")) && said.is_new(&about("a"), &note("y")));
        tokio::time::advance(SAID_FOR).await;
        assert!(said.is_new(&about("a"), &note("x")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_where_its_object_is_with_as_much_of_the_text_as_is_taken() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let client = crate::lifecycle::mock::client(|_, _, body| async move { (200, body.unwrap_or_default()) });
        let (_, sender) = events(client, "webhook-1".to_owned(), metrics);
        let pod = ObjectReference { namespace: Some("team".to_owned()), ..about("a") };
        let event = sender.event(&pod, &note(&"é".repeat(900)), Timestamp::now());
        assert_eq!((event.metadata.namespace.as_deref(), event.note.map(|note| note.len())), (Some("team"), Some(1_000)));
        let event = sender.event(&about("a"), &note("x"), Timestamp::now());
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_does_not_grow_without_bound() {
        let mut said = Said::default();
        for i in 0..2 * SAID_MAX {
            assert!(said.is_new(&about(&i.to_string()), &note("x")));
        }
        assert_eq!(said.at.len(), SAID_MAX);
    }
}
