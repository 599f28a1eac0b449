"""Where each of the 106 cases of the bad-input contract is tested: its table, one entry per number.

An entry names tests as `file` or `file::test`, below `tests/`; `tests/hostile/test_coverage.py` proves that they exist.
Rows of the tables in `tests.ingest.test_hostile_input` and `tests.hostile.rows` carry the number in their name.
"""

from __future__ import annotations

NATIVE = "ingest/test_hostile_input.py"
DOOR = "ingest/test_door.py"
SOCKETS = "ingest/test_door_over_sockets.py"
OTLP = "ingest/formats/test_otlp.py"
HTTP = "hostile/test_over_http.py"
BROKERS = "hostile/test_over_brokers.py"
READING = "hostile/test_reading.py"

#: Rows that go through every transport: the native door, NDJSON, binary mode where headers can carry the fault, and
#: messages of brokers; alone and as item 25 of 50.
EVERYWHERE = (NATIVE, HTTP, BROKERS)

CASES: dict[int, tuple[str, ...]] = {
    **dict.fromkeys((1, 2, 3, 5, 6, 7, 8, 9, 10, 11, *range(33, 48), *range(49, 57), *range(60, 72)), EVERYWHERE),
    4: (f"{NATIVE}::test_4_an_empty_list_is_fine",),
    12: (f"{DOOR}::test_12_to_15_other_content_types_are_415",),
    13: (f"{DOOR}::test_12_to_15_other_content_types_are_415",),
    14: (f"{DOOR}::test_12_to_15_other_content_types_are_415", f"{DOOR}::test_a_session_opens_nothing"),
    15: (f"{DOOR}::test_12_to_15_other_content_types_are_415", f"{DOOR}::test_a_form_is_no_binary_event_either"),
    16: (f"{DOOR}::test_16_20_other_encodings_are_415",),
    17: (f"{DOOR}::test_17_to_21_damaged_and_exploding_gzip",),
    18: (f"{DOOR}::test_17_to_21_damaged_and_exploding_gzip",),
    19: (f"{DOOR}::test_17_to_21_damaged_and_exploding_gzip", f"{DOOR}::test_19_a_bomb_takes_no_memory"),
    20: (f"{DOOR}::test_17_to_21_damaged_and_exploding_gzip", f"{DOOR}::test_16_20_other_encodings_are_415"),
    21: (f"{DOOR}::test_17_to_21_damaged_and_exploding_gzip",),
    22: (f"{DOOR}::test_22_30_too_long_by_its_own_word_is_413_before_reading",),
    23: (
        f"{DOOR}::test_23_24_a_stream_without_end_is_cut_at_the_limit",
        f"{SOCKETS}::test_23_chunks_beyond_the_limit_are_413_and_the_connection_closes",
    ),
    24: (f"{DOOR}::test_23_24_a_stream_without_end_is_cut_at_the_limit",),
    25: (f"{DOOR}::test_25_a_sender_that_goes_away_leaves_nothing",),
    26: (
        f"{DOOR}::test_26_odd_lengths_are_refused",
        f"{DOOR}::test_26_a_length_and_chunks_contradict",
        f"{SOCKETS}::test_26_ambiguous_framing_stores_nothing_twice",
    ),
    27: (f"{SOCKETS}::test_27_an_absurd_chunk_size_is_400",),
    28: (f"{SOCKETS}::test_28_huge_headers_do_no_harm",),
    29: (f"{DOOR}::test_29_one_known_host_or_400", f"{SOCKETS}::test_29_two_hosts_are_400"),
    30: (f"{SOCKETS}::test_30_an_oversize_body_is_refused_before_it_is_sent",),
    31: (f"{DOOR}::test_31_other_methods_are_405", f"{DOOR}::test_31_so_they_are_in_django"),
    32: (f"{DOOR}::test_32_other_paths_are_404_as_a_problem",),
    48: (f"{NATIVE}::test_48_many_keys_that_differ_little_are_answered_soon",),
    49: (NATIVE, f"{NATIVE}::test_49_lookalike_ids_are_different_events", HTTP, BROKERS),
    57: (f"{NATIVE}::test_57_58_the_same_id_again", f"{NATIVE}::test_an_odd_item_is_stored_and_can_be_read"),
    58: (f"{NATIVE}::test_57_58_the_same_id_again",),
    59: (f"{DOOR}::test_59_the_same_id_in_another_project_is_another_event",),
    72: (f"{OTLP}::test_odd_spans_are_stored_with_a_flag", f"{READING}::test_odd_sagas_are_shown_everywhere"),
    73: (f"{READING}::test_odd_sagas_are_shown_everywhere", "sagas/test_laws.py"),
    74: (f"{READING}::test_odd_sagas_are_shown_everywhere", "sagas/test_laws.py"),
    75: ("sagas/test_retention.py",),
    76: (f"{READING}::test_odd_sagas_are_shown_everywhere",),
    77: (f"{READING}::test_77_ten_thousand_steps_in_one_saga",),
    78: (f"{READING}::test_78_many_distinct_step_names",),
    79: (f"{NATIVE}::test_79_more_items_than_allowed_are_refused_as_a_whole",),
    80: (f"{NATIVE}::test_80_one_bad_item_of_a_thousand",),
    81: (f"{HTTP}::test_garbage_as_protobuf_is_a_status_in_protobuf",),
    82: (f"{HTTP}::test_spans_in_json", f"{HTTP}::test_spans_in_protobuf"),
    83: (f"{HTTP}::test_spans_in_json", f"{HTTP}::test_spans_in_protobuf"),
    84: (f"{HTTP}::test_spans_in_json", f"{OTLP}::test_names_in_snake_case_are_unknown_fields"),
    85: (f"{HTTP}::test_spans_in_json", f"{HTTP}::test_spans_in_protobuf"),
    86: (f"{HTTP}::test_spans_in_json", f"{OTLP}::test_odd_spans_are_stored_with_a_flag"),
    87: (f"{HTTP}::test_87_metrics_and_logs_are_no_traces",),
    88: EVERYWHERE,
    89: (f"{DOOR}::test_89_unclean_binary_attributes_are_400", f"{DOOR}::test_89_an_attribute_twice_is_400"),
    90: (NATIVE, BROKERS),
    91: ("ingest/formats/test_temporal_hostile.py",),
    92: ("api/test_reading.py::test_a_limit_that_is_no_number_from_1_to_1000_is_refused",),
    93: ("api/test_reading.py::test_a_cursor_that_we_did_not_make_is_refused",
         "api/test_reading.py::test_a_cursor_opens_only_its_own_list"),
    94: ("api/test_reading.py::test_what_looks_like_code_is_compared_literally_and_fast",
         "sagas/test_queries.py::test_a_read_that_takes_too_long_is_given_up"),
    95: ("api/test_reading.py::test_an_unknown_sort_is_refused_listing_those_that_exist",),
    96: ("api/test_access.py::test_another_tenants_things_look_like_things_that_do_not_exist",
         "web/test_access.py::test_what_belongs_to_another_project_looks_like_what_does_not_exist"),
    97: (f"{READING}::test_97_what_nobody_may_assign_is_refused",),
    98: (f"{READING}::test_98_a_stale_version_is_refused",),
    99: ("web/test_live.py::test_other_origins_are_refused_at_the_handshake",),
    100: ("web/test_live.py::test_nobody_listens_without_a_session",
          "web/test_live.py::test_signing_out_ends_the_connections_of_that_session"),
    101: ("web/test_live.py::test_pages_have_nothing_to_say",),
    102: (NATIVE, HTTP, BROKERS, f"{READING}::test_102_markup_is_shown_as_text_on_every_page"),
    103: (NATIVE, HTTP, BROKERS, "alerts/test_receivers.py"),
    104: ("api/test_reading.py::test_a_cell_that_looks_like_a_formula_is_defused",),
    105: (f"{READING}::test_105_a_large_payload_opens_soon",),
    106: (NATIVE, HTTP, BROKERS),
}  # fmt: skip

#: Addresses that a webhook must not reach, tried at saving and at connecting.
WEBHOOK_URLS = ("lib/test_http.py::test_urls_that_are_refused_as_such",
                "lib/test_http.py::test_private_addresses_are_refused_at_save_and_at_connect",
                "lib/test_http.py::test_a_name_that_changes_its_mind_reaches_nothing",
                "lib/test_http.py::test_redirects_are_handed_back",
                "lib/test_http.py::test_ports_of_databases_stay_closed_in_opened_networks")  # fmt: skip
