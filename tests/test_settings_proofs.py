"""Every setting changes something: for each, the test that fails when it is ignored."""

import ast
from functools import cache
from pathlib import Path

import msgspec

from kalshibook.settings import Settings

TESTS = Path(__file__).parent

# Each test sets a value away from the default and looks at what the program then does; that it fails
# when the setting keeps its default was tried, one setting after the other, by forcing the default.
PROOFS = {
    "store.history_seconds": "store/test_options.py::test_history_seconds_is_how_far_back_as_of_reaches",
    "store.history_step_ms": "store/test_options.py::test_history_step_is_how_exact_as_of_is",
    "store.recent_versions": "store/test_options.py::test_recent_versions_are_those_that_at_finds",
    "store.incident_capacity": "store/test_options.py::test_incident_capacity_is_how_many_are_kept",
    "store.source_silence_ms": (
        "store/test_notices.py::test_source_silence_is_how_long_a_source_may_be_silent"
    ),
    "kafka.bootstrap_servers": "feeds/test_kafka.py::test_reads_every_partition_from_the_beginning",
    "kafka.topic": "feeds/test_link.py::test_missing_topic",
    "kafka.start": "feeds/test_kafka.py::test_begins_at_stored_offsets",
    "kafka.snapshots_topic": "feeds/test_snapshots.py::test_snapshots_topic_is_where_books_are_saved",
    "snapshots.write": "cli/test_snapshots.py::test_serve_saves_books_if_it_is_told_to",
    "snapshots.interval_s": "feeds/test_snapshots.py::test_interval_s_is_the_pause_between_rounds",
    "snapshots.records_per_second": "feeds/test_snapshots.py::test_records_per_second_bounds_a_round",
    "snapshots.settled_hours": (
        "feeds/test_snapshots.py::test_settled_hours_is_how_long_a_settled_market_is_kept"
    ),
    "kafka.rewind_minutes": "feeds/test_kafka.py::test_rewind_minutes_is_how_far_a_rewind_goes",
    "kafka.start_offsets": "feeds/test_kafka.py::test_begins_at_stored_offsets",
    "kafka.batch_records": "feeds/test_kafka.py::test_batch_records_bounds_a_batch",
    "kafka.poll_timeout_ms": "feeds/test_kafka.py::test_poll_timeout_is_how_long_timers_wait",
    "kafka.partition_refresh_s": (
        "feeds/test_kafka.py::test_partition_refresh_is_how_often_the_topic_is_looked_at"
    ),
    "kafka.lag_limit_s": "feeds/test_kafka_faults.py::test_a_feed_that_is_late_is_behind_until_it_keeps_pace",
    "kafka.silence_limit_s": "feeds/test_kafka_faults.py::test_silence_is_told",
    "kafka.quarantine_file": "feeds/test_kafka.py::test_goes_to_quarantine_and_reading_goes_on",
    "kafka.quarantine_topic": "feeds/test_quarantine.py::test_keeps_what_a_feed_rejects",
    "kafka.quarantine_bytes": "feeds/test_kafka.py::test_quarantine_bytes_bounds_the_quarantine",
    "kafka.extra": "feeds/test_kafka.py::test_extra_settings_reach_librdkafka",
    "http.host": "http/test_server.py::test_impossible_address_is_one_clear_error",
    "http.port": "http/test_server.py::test_a_free_port_is_taken_and_answers",
    "http.max_tickers": "http/test_tops.py::test_caps",
    "http.max_levels": "http/test_tops.py::test_caps",
    "http.max_page": "http/test_tops.py::test_caps",
    "http.max_body_bytes": "http/test_tops.py::test_caps",
    "http.max_head_bytes": "http/test_server.py::test_length_of_a_url",
    "http.stuck_client_ms": "http/test_server.py::test_body_that_does_not_arrive_is_given_up",
    "http.keep_alive_ms": "http/test_server.py::test_idle_connection_is_closed_in_time",
    "http.drain_ms": "http/test_server.py::test_stuck_client_does_not_hold_up_a_stop",
    "http.stale_share_limit": "http/test_operations.py::test_stale_share_turns_readiness_red",
    "http.serve_stale": "http/test_kalshi.py::test_doubt_is_served_only_where_the_setting_allows_it",
    "http.cached_fragments": "http/test_operations.py::test_no_more_fragments_are_kept_than_the_setting_says",
    "stream.host": "stream/test_listener.py::test_an_impossible_host_is_one_clear_error",
    "stream.port": "stream/test_options.py::test_port",
    "stream.path": "stream/test_options.py::test_path",
    "stream.origins": "stream/test_listener.py::test_where_a_handshake_may_go_and_come_from",
    "stream.max_connections": "stream/test_listener.py::test_refusals_are_answered_over_http",
    "stream.handshake_timeout_s": "stream/test_options.py::test_handshake_timeout",
    "stream.send_timeout_s": "stream/test_options.py::test_send_timeout",
    "stream.drain_timeout_s": "stream/test_options.py::test_drain_timeout",
    "stream.close_timeout_s": "stream/test_options.py::test_close_timeout",
    "stream.stop_timeout_s": "stream/test_options.py::test_stop_timeout",
    "stream.ping_interval_s": "stream/test_connection.py::test_a_backlog_that_is_never_emptied_cuts",
    "stream.pong_timeout_s": "stream/test_connection.py::test_a_missing_pong_cuts",
    "stream.max_message_bytes": "stream/test_connection.py::test_an_oversize_message_closes_with_1009",
    "stream.write_bytes": "stream/test_connection.py::test_a_backlog_that_is_never_emptied_cuts",
    "stream.gather_ms": "stream/test_rounds.py::test_gather_ms",
    "stream.gather_behind_ms": "stream/test_rounds.py::test_gather_behind_ms",
    "stream.change_capacity": "stream/test_options.py::test_change_capacity",
    "stream.change_batches": "stream/test_options.py::test_change_batches",
    "stream.max_subscriptions": "stream/test_session.py::test_subscription_limit",
    "stream.max_markets": "stream/test_session.py::test_market_limit",
    "stream.max_prefixes": "stream/test_options.py::test_max_prefixes",
    "stream.max_ticker_length": "stream/test_session.py::test_ticker_length",
    "stream.commands_per_second": "stream/test_session.py::test_command_rate",
    "stream.subscription_commands_per_second": "stream/test_session.py::test_command_rate",
    "stream.depth_backlog": "stream/test_depth.py::test_backlog_is_replaced_by_snapshots",
    "stream.depth_overflow": "stream/test_depth.py::test_overflow_can_end_the_subscription",
    "stream.notice_backlog": "stream/test_notices.py::test_overflow_ends_the_subscription",
    "stream.reply_backlog_bytes": "stream/test_options.py::test_reply_backlog_bytes",
    "stream.use_yes_price": "stream/test_depth.py::test_scale_by_default",
    "stream.snapshot_cache_bytes": "stream/test_options.py::test_snapshot_cache_bytes",
    "server.feed": "cli/test_serve.py::test_a_feed_of_another_name",
    "server.feed_options": "cli/test_serve.py::test_feeds_are_made_from_their_options",
    "server.switch_interval_us": "cli/test_serve.py::test_settings_reach_store_and_server",
    "gather.source": "gather/test_options.py::test_what_cannot_be_is_refused",
    "gather.environment": "gather/test_options.py::test_addresses_follow_the_environment",
    "gather.rest_url": "gather/test_options.py::test_addresses_follow_the_environment",
    "gather.stream_url": "gather/test_options.py::test_addresses_follow_the_environment",
    "gather.key_id": "gather/test_credentials.py::test_loads_from_settings",
    "gather.private_key": "gather/test_credentials.py::test_loads_from_settings",
    "gather.private_key_file": "gather/test_credentials.py::test_loads_from_settings",
    "gather.read_budget": "gather/test_rest.py::test_read_budget_paces_requests",
    "gather.http_host": "gather/test_http.py::test_listens_where_the_settings_say",
    "gather.http_port": "gather/test_http.py::test_listens_where_the_settings_say",
    "gather.rest_attempts": "gather/test_rest.py::test_rest_attempts_is_how_often_it_is_tried",
    "gather.rest_timeout_ms": "gather/test_rest.py::test_rest_timeout_is_how_long_an_attempt_may_take",
    "gather.rest_connections": "gather/test_rest.py::test_rest_connections_bounds_what_is_under_way",
    "gather.book_connections": "gather/test_gatherer.py::test_book_connections",
    "gather.gap_topic": "gather/test_gatherer.py::test_gap_topic_can_be_left_out",
    "gather.heartbeat_ms": "gather/test_publishing.py::test_heartbeats_reach_every_partition",
    "gather.lifecycle_connections": "gather/test_gatherer.py::test_roles_can_be_left_out",
    "gather.max_connections": "gather/test_gatherer.py::test_max_connections",
    "gather.max_frame_bytes": "gather/test_gatherer.py::test_a_frame_that_is_too_long_ends_its_connection",
    "gather.own_books": "gather/test_gatherer.py::test_own_books_are_kept_where_they_are_wanted",
    "gather.peer_silence_ms": "gather/test_peers.py::test_a_silent_peer_is_helped_out",
    "gather.peers": "gather/test_peers.py::test_a_silent_peer_is_helped_out",
    "gather.ping_interval_s": "gather/test_gatherer.py::test_a_half_open_socket_is_noticed_by_its_pings",
    "gather.queue_frames": "gather/test_publishing.py::test_a_full_queue_says_so",
    "gather.stop_timeout_s": "gather/test_publishing.py::test_a_stop_has_an_end",
    "gather.suppress_repeats": "gather/test_publishing.py::test_suppress_repeats",
    "gather.trade_connections": "gather/test_gatherer.py::test_roles_can_be_left_out",
    "gather.backoff_first_s": "gather/test_session.py::test_too_many_commands_are_spread",
    "gather.backoff_limit_s": "gather/test_session.py::test_pauses_grow_to_their_limit",
    "gather.command_timeout_s": "gather/test_session.py::test_a_snapshot_that_does_not_come",
    "gather.commands_in_flight": "gather/test_session.py::test_so_many_commands_are_under_way",
    "gather.markets_per_command": "gather/test_session.py::test_snapshots_are_asked_for_within_the_budget",
    "gather.markets_per_connection": "gather/test_placement.py::test_markets_per_connection",
    "gather.missing_retry_s": "gather/test_session.py::test_markets_that_are_not_in_the_list",
    "gather.refresh_minutes": "gather/test_session.py::test_refreshes_are_spread_over_their_interval",
    "gather.silence_s": "gather/test_session.py::test_silence_is_questioned_and_then_ended",
    "gather.snapshot_burst": "gather/test_session.py::test_snapshots_are_asked_for_within_the_budget",
    "gather.snapshots_per_second": "gather/test_session.py::test_snapshots_are_asked_for_within_the_budget",
    "gather.series": "gather/test_selection.py::test_series_events_tickers_and_prefixes",
    "gather.events": "gather/test_selection.py::test_series_events_tickers_and_prefixes",
    "gather.tickers": "gather/test_selection.py::test_series_events_tickers_and_prefixes",
    "gather.prefixes": "gather/test_selection.py::test_series_events_tickers_and_prefixes",
    "gather.statuses": "gather/test_selection.py::test_statuses_are_those_in_which_a_market_is_taken_in",
    "gather.combos": "gather/test_selection.py::test_combos_in_or_out",
    "gather.max_markets": "gather/test_sync.py::test_max_markets_is_how_many_are_gathered",
    "gather.closed_seconds": (
        "gather/test_sync.py::test_closed_seconds_is_how_long_a_closed_market_is_gathered"
    ),
    "gather.page_markets": "gather/test_selection.py::test_pages_and_long_lists_of_tickers",
    "gather.reconcile_minutes": (
        "gather/test_sync.py::test_reconcile_minutes_is_how_often_the_lists_are_gone_through"
    ),
    "gather.state_file": "gather/test_sync.py::test_state_file_is_where_a_restart_goes_on",
    "simulator.host": "simulator/test_options.py::test_host",
    "simulator.rest_port": "simulator/test_server.py::test_a_busy_port_is_an_error",
    "simulator.stream_port": "simulator/test_server.py::test_a_busy_port_is_an_error",
    "simulator.open": "simulator/test_server.py::test_a_book_over_both_interfaces",
    "simulator.keys": "cli/test_simulate.py::test_keys_are_read_from_files",
    "simulator.clock_tolerance_ms": "simulator/test_options.py::test_clock_tolerance",
    "simulator.max_connections": "simulator/test_server.py::test_connections_are_limited_per_user",
    "simulator.recordings": "cli/test_simulate.py::test_recordings_are_listed_and_move",
    "simulator.markets": "simulator/test_options.py::test_markets_and_quiet_markets",
    "simulator.quiet_markets": "simulator/test_options.py::test_markets_and_quiet_markets",
    "simulator.messages_per_second": "simulator/test_options.py::test_messages_per_second",
    "simulator.seed": "simulator/test_options.py::test_seed",
    "simulator.short_lived": "simulator/test_options.py::test_short_lived_and_combos",
    "simulator.life_seconds": "simulator/test_options.py::test_life_seconds",
    "simulator.pauses_per_hour": "simulator/test_options.py::test_pauses_per_hour",
    "simulator.combos": "simulator/test_options.py::test_short_lived_and_combos",
    "simulator.created_ahead_seconds": "simulator/test_options.py::test_created_ahead_seconds",
    "simulator.settled_seconds": "simulator/test_options.py::test_settled_seconds",
    "simulator.rest_lag_ms": "simulator/test_options.py::test_rest_lag",
    "simulator.speed": "simulator/test_server.py::test_time_can_be_sped_up",
    "simulator.frozen": "simulator/test_server.py::test_so_many_changes_and_no_more",
    "simulator.use_yes_price": "simulator/test_session.py::test_the_default_scale_can_be_flipped",
    "simulator.ping_interval_s": "simulator/test_options.py::test_pings",
    "simulator.missed_pongs": "simulator/test_options.py::test_pings",
    "simulator.subscription_buffer": "simulator/test_session.py::test_a_slow_reader_overflows_alone",
    "simulator.reply_backlog_bytes": "simulator/test_session.py::test_replies_that_nobody_reads",
    "simulator.max_markets": "simulator/test_session.py::test_limits_have_their_codes",
    "simulator.max_session_markets": "simulator/test_options.py::test_max_session_markets",
    "simulator.commands_per_second": "simulator/test_options.py::test_commands_per_second",
    "simulator.subscription_commands_per_second": "simulator/test_session.py::test_limits_have_their_codes",
    "simulator.read_tokens_per_second": "simulator/test_rest.py::test_too_many_requests",
    "simulator.cache_seconds": "simulator/test_rest.py::test_answers_may_be_as_old_as_the_cache_allows",
    "simulator.faults": "simulator/test_faults.py::test_a_campaign_is_found_without_a_miss",
    "simulator.fault_kinds": "simulator/test_faults.py::test_kinds_of_a_schedule_can_be_chosen",
    "simulator.fault_seed": "simulator/test_faults.py::test_the_same_seed_does_the_same_harm",
    "simulator.fault_every_s": "simulator/test_faults.py::test_lively_does_something_every_few_seconds",
    "simulator.fault_count": "simulator/test_faults.py::test_a_campaign_is_found_without_a_miss",
    "simulator.fault_span": "simulator/test_faults.py::test_a_campaign_is_found_without_a_miss",
    "gather.poll_seconds": "gather/test_poller.py::test_poll_seconds_is_how_often_each_book_is_asked_for",
    "gather.poll_share": "gather/test_poller.py::test_poll_share_is_what_polling_leaves_of_the_budget",
    "gather.audit": "gather/test_audit.py::test_wrong_books_are_incidents_and_healed",
    "gather.audit_window_s": "gather/test_audit.py::test_audit_window_is_how_old_an_answer_may_be",
    "archive.dsn": "archive/test_writer.py::test_all_that_is_offered_is_stored",
    "archive.timescale": "archive/test_upkeep.py::test_timescale_never_makes_native_partitions",
    "archive.in_gatherer": "archive/test_sink.py::test_in_gatherer_is_a_sink_of_the_gatherer",
    "archive.group": "archive/test_consumer.py::test_reading_goes_on_where_it_ended",
    "archive.gaps_topic": "archive/test_consumer.py::test_gaps_are_stored_beside",
    "archive.batch_rows": "archive/test_writer.py::test_batch_rows_bounds_a_transaction",
    "archive.batch_ms": "archive/test_writer.py::test_batch_ms_is_how_long_a_row_waits",
    "archive.queue_rows": "archive/test_writer.py::test_a_full_journal_pushes_back",
    "archive.snapshot_interval_s": "archive/test_consumer.py::test_books_are_stored_whole",
    "archive.spill_folder": "archive/test_journal.py::test_a_folder_that_cannot_be_used",
    "archive.spill_bytes": "archive/test_writer.py::test_a_full_journal_pushes_back",
    "archive.keep_days": "archive/test_upkeep.py::test_keep_days_is_how_long_rows_are_kept",
    "archive.chunk_hours": "archive/test_upkeep.py::test_chunk_hours_is_what_a_partition_spans",
    "archive.compress_days": "archive/test_upkeep.py::test_compression_follows_the_edition",
    "archive.housekeeping_minutes": "archive/test_consumer.py::test_housekeeping_minutes_is_how_often",
    "dedup.source_dsns": "cli/test_archive_production.py::test_a_source_that_is_down_is_named",
    "dedup.batch_rows": "cli/test_archive_production.py::test_dedup_once",
    "dedup.pause_ms": "cli/test_archive_production.py::test_dedup_runs_until_a_signal",
    "dedup.retry_s": "cli/test_archive_production.py::test_what_cannot_be_is_refused",
    "dedup.refresh_s": "cli/test_archive_production.py::test_dedup_runs_until_a_signal",
    "dedup.requests_per_second": "archive/test_judging.py::test_requests_are_paced",
    "dedup.metrics_port": "cli/test_archive_production.py::test_dedup_runs_until_a_signal",
    "export.target": "cli/test_archive_production.py::test_export_check_and_read_back",
    "export.s3_credentials": "archive/test_export.py::test_a_wrong_secret_is_refused",
    "export.batch_rows": "cli/test_archive_production.py::test_export_check_and_read_back",
    "export.settle_s": "archive/test_export.py::test_what_is_young_waits",
    "export.every_s": "cli/test_archive_production.py::test_export_again_and_again",
    "log.level": "cli/test_logs.py::test_levels",
    "log.format": "cli/test_logs.py::test_console",
}


@cache
def names_of_tests(file: str) -> set[str]:
    """Return the names of all tests of a file."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ast.walk(ast.parse((TESTS / file).read_text()))
    return {node.name for node in nodes if isinstance(node, definitions) and node.name.startswith("test_")}


def test_every_setting_has_its_proof() -> None:
    """A setting that is added needs a test of what it changes, named here; a proof that is gone is missed."""
    settings = {
        f"{section.name}.{field.name}"
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    }
    places = {path: proof.split("::") for path, proof in PROOFS.items()}

    assert settings == set(PROOFS)
    assert {} == {path: name for path, (file, name) in places.items() if name not in names_of_tests(file)}
