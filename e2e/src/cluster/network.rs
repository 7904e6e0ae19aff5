//! The network: one namespace for each place, and a bridge in the hub that connects them. The machine's own network has no part in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::enter::in_netns;
use super::layout::{HUB, Layout, Place, pod_subnet};
use crate::process::run;

/// Makes all namespaces, addresses and routes.
pub(super) fn create(layout: &Layout) -> Result<()> {
    let hub = layout.name(Place::Hub);
    ip(&["netns", "add", &hub])?;
    ip(&["-n", &hub, "link", "set", "lo", "up"])?;
    ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
    ip(&["-n", &hub, "address", "add", &format!("{HUB}/24"), "dev", "br0"])?;
    ip(&["-n", &hub, "link", "set", "br0", "up"])?;
    forward(layout, Place::Hub)?;
    layout.nodes().try_for_each(|node| connect(layout, &hub, node))?;
    for node in layout.nodes() {
        for (subnet, gateway) in pod_routes(layout, node) {
            ip(&["-n", &layout.name(node), "route", "add", &subnet, "via", &gateway])?;
        }
    }
    for (subnet, gateway) in pod_routes(layout, Place::Hub) {
        ip(&["-n", &hub, "route", "add", &subnet, "via", &gateway])?;
    }
    Ok(())
}

/// Takes a node off the network, or puts it back: its cable, so to speak.
pub(super) fn plug(layout: &Layout, node: Place, on: bool) -> Result<()> {
    ip(&["-n", &layout.name(Place::Hub), "link", "set", &node.to_string(), if on { "up" } else { "down" }])
}

fn connect(layout: &Layout, hub: &str, node: Place) -> Result<()> {
    let (name, port) = (layout.name(node), node.to_string());
    ip(&["netns", "add", &name])?;
    ip(&["link", "add", &port, "netns", hub, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
    ip(&["-n", hub, "link", "set", &port, "master", "br0", "up"])?;
    ip(&["-n", &name, "link", "set", "lo", "up"])?;
    ip(&["-n", &name, "address", "add", &format!("{}/24", node.address()), "dev", "eth0"])?;
    ip(&["-n", &name, "link", "set", "eth0", "up"])?;
    ip(&["-n", &name, "route", "add", "default", "via", HUB])?;
    forward(layout, node)
}

/// Where the pods of all nodes but this one are.
fn pod_routes(layout: &Layout, from: Place) -> Vec<(String, String)> {
    let others = layout.nodes().filter(|node| *node != from);
    others.filter_map(|node| if let Place::Node(number) = node { Some((pod_subnet(number), node.address())) } else { None }).collect()
}

fn forward(layout: &Layout, place: Place) -> Result<()> {
    in_netns(&layout.netns(place), || {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch forwarding on")?;
        // So that a pod reaches a pod of its own node through a Service; there only where the kernel's module is.
        let bridged = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if place != Place::Hub && bridged.exists() {
            fs::write(bridged, "1").context("show bridged packets to iptables")?;
        }
        Ok(())
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments)).map(drop)
}
