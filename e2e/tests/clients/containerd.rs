//! containerd, which is what pulls on a node.

use anyhow::{Result, ensure};
use kuik_e2e::agent::Agent;
use kuik_e2e::containerd::{Containerd, Release};
use kuik_e2e::images;
use kuik_e2e::relay::Relay;

use crate::setup::Setup;

const PART_BYTES: usize = 1 << 20;
const BIG_LAYER_BYTES: usize = 24 << 20;

#[test]
fn containerd_1_6_pulls_and_runs_with_the_registry_up_and_down() -> Result<()> {
    check_pull_and_run(&Containerd::start(Release::V1_6)?)
}

#[test]
fn containerd_2_2_pulls_and_runs_with_the_registry_up_and_down() -> Result<()> {
    check_pull_and_run(&Containerd::start(Release::V2_2)?)
}

#[test]
fn containerd_2_2_fetches_parts_of_a_layer_in_parallel() -> Result<()> {
    let containerd = Containerd::start_parallel(PART_BYTES)?;
    let mut setup = Setup::start()?;
    setup.push("team/big", "v1", &images::big("in parts", BIG_LAYER_BYTES)?)?;
    let relay = Relay::start(&setup.agent.host())?;
    let image = format!("localhost:{}/{}:v1", relay.port, Agent::path(&setup.registry.host(), "team/big"));

    // Cold: the parts are asked for while the agent itself still fetches the layer.
    check_parts(&containerd, &image, &relay, "cold")?;
    containerd.remove(&image)?;
    setup.registry.down()?;
    check_parts(&containerd, &image, &relay, "warm")
}

#[test]
fn containerd_1_6_fetches_every_platform_of_a_nested_index() -> Result<()> {
    check_all_platforms(&Containerd::start(Release::V1_6)?)
}

#[test]
fn containerd_2_2_fetches_every_platform_of_a_nested_index() -> Result<()> {
    check_all_platforms(&Containerd::start(Release::V2_2)?)
}

#[test]
fn containerd_1_6_pulls_through_the_agent_as_a_mirror() -> Result<()> {
    check_mirror(&Containerd::start(Release::V1_6)?)
}

#[test]
fn containerd_2_2_pulls_through_the_agent_as_a_mirror() -> Result<()> {
    check_mirror(&Containerd::start(Release::V2_2)?)
}

fn check_pull_and_run(containerd: &Containerd) -> Result<()> {
    let mut setup = Setup::start()?;
    let index = images::multi_arch("hello from the index")?;
    setup.push("team/app", "v1", &index)?;
    setup.push("team/zstd", "v1", &images::with_layer("hello from zstd", images::Compression::Zstd)?)?;
    setup.push("team/docker", "v1", &images::docker("hello from docker")?)?;
    let by_digest = format!("@{}", index.root().digest);
    let cases = [
        (setup.image("team/app", ":v1"), "hello from the index\n"),
        (setup.image("team/app", &by_digest), "hello from the index\n"),
        (setup.image("team/zstd", ":v1"), "hello from zstd\n"),
        (setup.image("team/docker", ":v1"), "hello from docker\n"),
    ];
    check_cases(containerd, &cases)?;
    setup.registry.down()?;
    check_cases(containerd, &cases)
}

fn check_cases(containerd: &Containerd, cases: &[(String, &str)]) -> Result<()> {
    for (image, output) in cases {
        containerd.pull(image)?;
        let said = containerd.run(image, "case")?;
        ensure!(said == *output, "{image} printed {said:?}");
        containerd.remove(image)?;
    }
    Ok(())
}

/// Each part is asked for as `bytes=N-`, open at the end, and left after its length.
fn check_parts(containerd: &Containerd, image: &str, relay: &Relay, id: &str) -> Result<()> {
    containerd.pull(image)?;
    let ranges = relay.take_ranges();
    let last = format!("bytes={}-", BIG_LAYER_BYTES / PART_BYTES * PART_BYTES);
    ensure!(ranges.contains(&last), "containerd asked for no parts but for {ranges:?}");
    ensure!(containerd.run(image, id)? == "in parts\n", "the container printed something else");
    Ok(())
}

fn check_all_platforms(containerd: &Containerd) -> Result<()> {
    let setup = Setup::start()?;
    let nested = images::nested("platforms")?;
    setup.push("team/app", "v1", &nested)?;
    containerd.fetch_all_platforms(&setup.image("team/app", ":v1"))?;
    let held = containerd.content()?;
    for content in nested.manifests.iter().chain(&nested.blobs) {
        ensure!(held.contains(&content.digest), "{} did not arrive", content.digest);
    }
    Ok(())
}

/// The image keeps its name, and `hosts.toml` sends containerd to the agent first.
fn check_mirror(containerd: &Containerd) -> Result<()> {
    let mut setup = Setup::start()?;
    setup.push("team/app", "v1", &images::multi_arch("through the mirror")?)?;
    let image = format!("{}/team/app:v1", setup.registry.host());
    containerd.use_mirror(&setup.registry.host(), &setup.agent.host())?;
    for (id, registry_up) in [("up", true), ("down", false)] {
        if !registry_up {
            setup.registry.down()?;
        }
        containerd.pull(&image)?;
        ensure!(containerd.run(&image, id)? == "through the mirror\n", "the container printed something else");
        containerd.remove(&image)?;
    }
    Ok(())
}
