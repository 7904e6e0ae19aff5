//! The images: base layers that many share, layers of their own, a few with many layers, and one that is larger than the budget.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use kuik_e2e::images::{self, Content};
use kuik_e2e::registry::Registry;

use super::dice::Dice;

const REPOSITORIES: usize = 4;
const BASES: u64 = 6;
/// One image in so many has many layers.
const MANY_LAYERS_EACH: usize = 12;

/// A blob, as far as it is of interest once it has been pushed.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) bytes: u64,
}

/// An image in the registry.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) repository: String,
    pub(super) tag: String,
    pub(super) manifest: Blob,
    /// Config and layers.
    pub(super) blobs: Vec<Blob>,
}

/// All images in the registry, in no order.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) images: Vec<Image>,
    /// The one that does not fit.
    pub(super) giant: usize,
    budget_bytes: u64,
}

impl Library {
    /// Makes and pushes images until they are together so many budgets.
    pub(super) fn push(registry: &Registry, budget_bytes: u64, budgets: u64, dice: &mut Dice) -> Result<Self> {
        let mut shelf = Shelf::new(registry);
        let bases: Vec<Content> = (0..BASES).map(|base| layer(&format!("base-{base}"), budget_bytes / 16)).collect();
        let mut library = Self { images: Vec::new(), giant: 0, budget_bytes };
        library.images.push(shelf.push("giant", &[layer("giant", budget_bytes + (1 << 20))])?);
        while library.bytes() < budget_bytes * budgets {
            let name = format!("image-{}", library.images.len());
            let own: Vec<u64> = if dice.below(MANY_LAYERS_EACH) == 0 {
                (0..8 + dice.below(7)).map(|_| dice.size(budget_bytes / 2048, budget_bytes / 128)).collect()
            } else {
                (0..=dice.below(2)).map(|_| dice.size(budget_bytes / 512, budget_bytes / 8)).collect()
            };
            let own = own.iter().enumerate().map(|(number, bytes)| layer(&format!("{name}-{number}"), *bytes));
            let layers: Vec<Content> = std::iter::once(bases[dice.below(bases.len())].clone()).chain(own).collect();
            library.images.push(shelf.push(&name, &layers)?);
        }
        Ok(library)
    }

    /// What all images take together, each blob counted once.
    pub(super) fn bytes(&self) -> u64 {
        let all = self.images.iter().flat_map(|image| image.blobs.iter().chain([&image.manifest]));
        all.map(|blob| (&blob.digest, blob.bytes)).collect::<BTreeMap<_, _>>().values().sum()
    }

    /// The largest blob that fits.
    pub(super) fn largest_bytes(&self) -> u64 {
        let all = self.images.iter().flat_map(|image| &image.blobs).map(|blob| blob.bytes);
        all.filter(|bytes| *bytes < self.budget_bytes).max().unwrap_or_default()
    }
}

fn layer(marker: &str, bytes: u64) -> Content {
    images::plain_layer(marker, usize::try_from(bytes).expect("a layer must fit into memory"))
}

/// Where images are pushed to: what a repository has is not pushed there again.
struct Shelf<'a> {
    registry: &'a Registry,
    pushed: BTreeSet<(String, String)>,
    images: usize,
}

impl<'a> Shelf<'a> {
    fn new(registry: &'a Registry) -> Self {
        Self { registry, pushed: BTreeSet::new(), images: 0 }
    }

    fn push(&mut self, name: &str, layers: &[Content]) -> Result<Image> {
        let mut image = images::layered(name, layers);
        let repository = format!("soak/app-{}", self.images % REPOSITORIES);
        self.images += 1;
        let known = |content: &Content| Blob { digest: content.digest.clone(), bytes: content.bytes.len() as u64 };
        let blobs = image.blobs.iter().map(known).collect();
        image.blobs.retain(|blob| self.pushed.insert((repository.clone(), blob.digest.clone())));
        images::push(self.registry, &repository, name, &image)?;
        Ok(Image { repository, tag: name.to_owned(), manifest: known(image.root()), blobs })
    }
}
