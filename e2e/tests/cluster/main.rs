//! The whole of it on a real Kubernetes.
//!
//! One cluster serves all tests; each has a namespace of its own and leaves the rest as it found it. `KUIK_E2E_CLUSTER=DIR` names a
//! cluster to use instead, such as that of `make cluster-up`; `KUIK_E2E_KUBECONFIG=FILE` one of which only the API is reached.

mod certificates;
mod digests;
mod disk;
mod env;
mod expiry;
mod filters;
mod host_network;
mod install;
mod kuik;
mod migration;
mod nodes;
mod outage;
mod outages;
mod private;
mod readme;
mod runner;
mod upgrade;
mod values;
mod webhook;

use std::process::ExitCode;

use runner::Test;

/// In the order in which they run.
const TESTS: &[Test] = &[
    ("nodes::nodes_are_ready_with_both_containerds", nodes::nodes_are_ready_with_both_containerds),
    ("nodes::pods_run_from_the_upstream_registry", nodes::pods_run_from_the_upstream_registry),
    ("outages::a_pod_waits_for_an_upstream_that_is_gone", outages::a_pod_waits_for_an_upstream_that_is_gone),
    ("outages::a_cut_upstream_is_silent", outages::a_cut_upstream_is_silent),
    ("outages::an_unplugged_node_reaches_nobody", outages::an_unplugged_node_reaches_nobody),
    ("outages::the_api_server_stops_and_starts", outages::the_api_server_stops_and_starts),
    ("outages::a_private_image_needs_its_secret", outages::a_private_image_needs_its_secret),
    ("install::one_command_makes_everything_ready", install::one_command_makes_everything_ready),
    ("install::a_pod_is_rewritten_starts_and_its_image_is_shown", install::a_pod_is_rewritten_starts_and_its_image_is_shown),
    ("install::agents_have_no_rights", install::agents_have_no_rights),
    ("values::a_wrong_key_is_refused_with_its_name", values::a_wrong_key_is_refused_with_its_name),
    ("filters::each_filter_leaves_pods_alone", filters::each_filter_leaves_pods_alone),
    ("filters::some_containers_are_left_alone", filters::some_containers_are_left_alone),
    ("filters::mirror_pods_are_left_alone", filters::mirror_pods_are_left_alone),
    ("filters::a_debug_container_is_rewritten", filters::a_debug_container_is_rewritten),
    ("webhook::a_deployment_rolls_to_a_new_tag", webhook::a_deployment_rolls_to_a_new_tag),
    ("digests::digests_are_unchanged", digests::digests_are_unchanged),
    (
        "digests::a_platform_s_digest_is_ready_where_its_index_is_held_by_tag",
        digests::a_platform_s_digest_is_ready_where_its_index_is_held_by_tag,
    ),
    ("outage::an_image_starts_again_without_its_registry", outage::an_image_starts_again_without_its_registry),
    ("outage::an_image_that_upstream_deleted_starts_and_says_so", outage::an_image_that_upstream_deleted_starts_and_says_so),
    ("outage::an_agent_that_is_deleted_under_load_costs_a_retry", outage::an_agent_that_is_deleted_under_load_costs_a_retry),
    ("outage::pulls_go_on_without_the_api_server", outage::pulls_go_on_without_the_api_server),
    ("private::the_right_secret_starts_a_pod", private::secrets::the_right_secret_starts_a_pod),
    ("private::without_a_right_secret_a_cached_image_is_refused", private::secrets::without_a_right_secret_a_cached_image_is_refused),
    ("private::a_secret_that_is_added_starts_the_pod", private::secrets::a_secret_that_is_added_starts_the_pod),
    ("private::the_secret_of_a_service_account_is_enough", private::secrets::the_secret_of_a_service_account_is_enough),
    ("private::two_namespaces_have_a_path_of_one_host_each", private::secrets::two_namespaces_have_a_path_of_one_host_each),
    ("private::tokens_that_are_not_ones_own_open_nothing", private::direct::tokens_that_are_not_ones_own_open_nothing),
    (
        "private::a_container_that_asks_gets_no_more_than_its_token_opens",
        private::direct::a_container_that_asks_gets_no_more_than_its_token_opens,
    ),
    (
        "private::a_node_gets_no_secrets_of_namespaces_without_a_pod_there",
        private::direct::a_node_gets_no_secrets_of_namespaces_without_a_pod_there,
    ),
    ("private::a_secret_kuik_pull_of_somebody_else_is_left_alone", private::foreign::a_secret_kuik_pull_of_somebody_else_is_left_alone),
    // From here on with values of their own, the same for as long as possible.
    ("private::a_right_that_was_withdrawn_ends_with_its_proof", private::proofs::a_right_that_was_withdrawn_ends_with_its_proof),
    ("private::an_outage_does_not_stop_who_has_proven", private::proofs::an_outage_does_not_stop_who_has_proven),
    ("private::an_outage_stops_private_images_if_told_so", private::proofs::an_outage_stops_private_images_if_told_so),
    ("private::keys_are_replaced_under_load_without_a_failed_pull", private::rotation::keys_are_replaced_under_load_without_a_failed_pull),
    ("private::a_credential_helper_opens_what_no_pull_secret_does", private::cloud::a_credential_helper_opens_what_no_pull_secret_does),
    (
        "private::without_rights_of_namespaces_what_is_cached_is_everybodys",
        private::none::without_rights_of_namespaces_what_is_cached_is_everybodys,
    ),
    ("expiry::an_image_asked_for_by_hand_is_kept_by_two_nodes", expiry::an_image_asked_for_by_hand_is_kept_by_two_nodes),
    ("expiry::force_update_follows_a_tag_that_moved", expiry::force_update_follows_a_tag_that_moved),
    ("disk::pulls_fill_a_node_and_its_kubelet_removes_no_image", disk::pulls_fill_a_node_and_its_kubelet_removes_no_image),
    ("disk::what_holds_the_budget_up_is_named", disk::what_holds_the_budget_up_is_named),
    ("webhook::without_the_webhook_pods_start_unrewritten", webhook::without_the_webhook_pods_start_unrewritten),
    ("webhook::a_pod_is_admitted_right_after_the_webhook_was_killed", webhook::a_pod_is_admitted_right_after_the_webhook_was_killed),
    ("webhook::a_rollout_of_the_webhook_misses_no_pod", webhook::a_rollout_of_the_webhook_misses_no_pod),
    ("certificates::a_rotation_misses_no_pod", certificates::a_rotation_misses_no_pod),
    ("host_network::agents_listen_at_loopback_of_both_versions", host_network::agents_listen_at_loopback_of_both_versions),
    ("expiry::what_is_unused_expires_unless_used_again_or_retained", expiry::what_is_unused_expires_unless_used_again_or_retained),
    ("upgrade::upgrade_uninstall_and_install_again_lose_nothing", upgrade::upgrade_uninstall_and_install_again_lose_nothing),
    ("migration::objects_and_pods_of_v1_are_taken_over", migration::objects_and_pods_of_v1_are_taken_over),
    ("migration::what_kuik_v1_0_left_is_taken_over", migration::what_kuik_v1_0_left_is_taken_over),
];

fn main() -> ExitCode {
    runner::main(TESTS)
}
