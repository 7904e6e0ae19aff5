//! What is pulled in which order, and what goes wrong when.

use super::dice::{Dice, Zipf};
use super::library::Library;

const PULLS_A_KILL: usize = 40;
const PULLS_A_FILLING: usize = 80;
/// For so many pulls at most the file system stays full.
const FULL_PULLS_MAX: usize = 12;
/// The image that does not fit is pulled so often at least.
const GIANT_PULLS: usize = 2;

/// Something that goes wrong, or right again.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Event {
    /// The filler is deleted.
    Free,
    /// The filler takes all that is free.
    Fill {
        /// It does not do so for the first time since the last [`Event::Free`].
        again: bool,
    },
    /// `kill -9` at whatever the agent does.
    Kill,
    /// `kill -9` while a blob is on its way in.
    KillFilling,
}

/// A course of pulls and accidents.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Images, by their place in the library.
    pub(super) pulls: Vec<usize>,
    /// So many of them go by before anything goes wrong.
    pub(super) calm: usize,
    /// After how many pulls what happens.
    pub(super) events: Vec<(usize, Event)>,
}

impl Schedule {
    pub(super) fn new(library: &Library, pulls: usize, dice: &mut Dice) -> Self {
        let ranks = shuffled(library.images.len(), dice);
        let zipf = Zipf::new(ranks.len());
        let mut order: Vec<usize> = (0..pulls).map(|_| ranks[zipf.draw(dice)]).collect();
        for _ in 0..GIANT_PULLS.min(pulls) {
            order[dice.below(pulls)] = library.giant;
        }
        // The first third shows what the cache is good for; the last pulls are left alone too, so that there is something to look at.
        let (calm, last) = (pulls / 3, pulls * 9 / 10);
        let mut at = |from: usize, length: usize| from + dice.below(length.max(1));
        let mut events: Vec<(usize, Event)> =
            (0..pulls / PULLS_A_KILL).map(|number| (at(calm, last - calm), [Event::KillFilling, Event::Kill][number % 2])).collect();
        for number in 0..pulls / PULLS_A_FILLING {
            // Each has a part of the course to itself.
            let part = (last - calm) / (pulls / PULLS_A_FILLING);
            let from = at(calm + number * part, part / 2);
            let until = at(from + 1, FULL_PULLS_MAX.min(part / 2));
            events.push((from, Event::Fill { again: false }));
            // Every second one also takes what the agent gives up.
            if number % 2 == 1 {
                events.extend((from + 1..until).map(|at| (at, Event::Fill { again: true })));
            }
            events.push((until, Event::Free));
        }
        events.sort_unstable();
        Self { pulls: order, calm, events }
    }

    pub(super) fn kills(&self) -> usize {
        self.count(|event| matches!(event, Event::Kill | Event::KillFilling))
    }

    pub(super) fn fillings(&self) -> usize {
        self.count(|event| event == Event::Fill { again: false })
    }

    fn count(&self, mut wanted: impl FnMut(Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(*event)).count()
    }
}

fn shuffled(count: usize, dice: &mut Dice) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        all.swap(at, dice.below(at + 1));
    }
    all
}
