//! The configurations of a node's programs, as text.

use crate::containerd::Release;

use super::layout::{Layout, Place, disk_bytes, pod_subnet};

/// The image of the process that holds a pod's namespaces. It is made here, so it has a name that no registry knows.
pub(super) const SANDBOX_IMAGE: &str = "kuik.test/sandbox:1";

/// containerd's. `restrict_oom_score_adj`: without `CAP_SYS_RESOURCE` nobody may lower the score, and runc fails when it is asked to.
pub(super) fn containerd(release: Release) -> String {
    match release {
        Release::V1_6 => format!(
            r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"#
        ),
        Release::V2_2 => format!(
            r"version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{SANDBOX_IMAGE}'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '/etc/containerd/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
"
        ),
    }
}

/// The network of a node's pods: a bridge, and host ports.
pub(super) fn cni(number: u8) -> String {
    let subnet = pod_subnet(number);
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {{
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {{ "type": "host-local", "ranges": [[{{ "subnet": "{subnet}" }}]], "routes": [{{ "dst": "0.0.0.0/0" }}] }}
    }},
    {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }}
  ]
}}
"#
    )
}

/// The kubelet's of a node on the machine's disk. Disks of test machines are full in every sense but the one that matters: nothing is
/// evicted, no image collected.
const MACHINE_DISK: &str = r#"evictionHard: { nodefs.available: "64Mi", imagefs.available: "64Mi", nodefs.inodesFree: "1%" }
imageGCHighThresholdPercent: 100
"#;

/// The kubelet's of a node on a disk of its own: the thresholds are those that it has by itself, and it acts on them at once. It looks for
/// room to make every 10 s (`imagefs.available`), and every 5 minutes (`imageGCHighThresholdPercent`): that cannot be set.
const OWN_DISK: &str = r#"evictionHard: { nodefs.available: "10%", imagefs.available: "15%", nodefs.inodesFree: "5%" }
evictionPressureTransitionPeriod: 5s
imageGCHighThresholdPercent: 85
imageGCLowThresholdPercent: 80
imageMinimumGCAge: 1s
syncFrequency: 10s
"#;

/// The kubelet's.
pub(super) fn kubelet(layout: &Layout, node: Place) -> String {
    let (cgroup, disk) = (layout.name(node), if disk_bytes(node).is_some() { OWN_DISK } else { MACHINE_DISK });
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{ anonymous: {{ enabled: true }}, webhook: {{ enabled: false }} }}
authorization: {{ mode: AlwaysAllow }}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
registerWithTaints: []
resolvConf: /etc/resolv.conf
volumePluginDir: /var/lib/kubelet/volume-plugins
{disk}"#
    )
}

/// kube-proxy's. Limits of connection tracking belong to the machine.
pub(super) fn proxy(kubeconfig: &str, node: Place) -> String {
    format!(
        r"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{ kubeconfig: {kubeconfig} }}
clusterCIDR: 10.244.0.0/16
conntrack: {{ maxPerCore: 0 }}
hostnameOverride: {node}
mode: iptables
"
    )
}
