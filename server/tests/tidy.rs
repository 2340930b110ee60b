//! What the tree promises about itself. Each check says what to write instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringd::sys::FatalReason;
use serde_json::Value;

/// Crates that are state machines: values in, values out.
const PURE: [(&str, &str); 4] =
    [("net", "net"), ("consensus", "consensus"), ("engine", "engine"), ("node", "server/node")];

/// Longest source file, in lines. A longer one holds more than one decision.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

/// Every Rust file of the workspace that is ours, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![root()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            // Build output, hidden directories, and the published crate kept here only for its generated code.
            let foreign = name.starts_with('.') || name.ends_with("target") || name == "consensus/raft-proto";
            if path.is_dir() && !foreign {
                dirs.push(path);
            } else if name.ends_with(".rs") && name != "server/tests/tidy.rs" {
                files.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(files.len() > 40, "only {} files found", files.len());
    files.sort();
    files
}

/// The lines of a file that are neither comment nor its unit tests, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..tests]
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(found: &[String], instead: &str) {
    assert!(found.is_empty(), "{instead}\n{}", found.join("\n"));
}

/// The packages that each package of the build depends on, by id, and the name of each.
fn dependencies() -> (BTreeMap<String, Vec<String>>, BTreeMap<String, String>) {
    let output = Command::new(std::env::var_os("CARGO").expect("cargo runs its tests with CARGO set"))
        .args(["metadata", "--format-version=1", "--locked", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let mut names = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        names.insert(text(&package["id"]), text(&package["name"]));
    }
    let mut edges = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let to = node["dependencies"].as_array().expect("dependencies").iter().map(text).collect();
        edges.insert(text(&node["id"]), to);
    }
    (edges, names)
}

/// Names of all packages that `package` reaches, tests and build scripts included.
fn reached(package: &str) -> BTreeSet<String> {
    let (edges, names) = dependencies();
    let mut left: Vec<&String> =
        names.iter().filter(|(_, name)| *name == package).map(|(id, _)| id).collect();
    assert_eq!(left.len(), 1, "one package is called {package}");
    let mut seen = BTreeSet::new();
    while let Some(id) = left.pop() {
        for to in &edges[id] {
            if seen.insert(names[to].clone()) {
                left.push(to);
            }
        }
    }
    seen
}

#[test]
fn pure_crates_do_not_depend_on_a_runtime_nor_on_each_other() {
    for (package, _) in PURE {
        let reached = reached(package);
        for runtime in ["glommio", "tokio", "ringd"] {
            assert!(
                !reached.contains(runtime),
                "{package} depends on {runtime}: move what needs it to server/src/edge"
            );
        }
        if package != "node" {
            for (other, _) in PURE.iter().filter(|(other, _)| *other != package) {
                assert!(!reached.contains(*other), "{package} depends on {other}: join them in server/node");
            }
        }
    }
    assert!(reached("ringd").contains("glommio"), "this test would see glommio");
}

#[test]
fn pure_crates_name_no_clock_thread_file_or_socket() {
    let forbidden = [
        "glommio",
        "tokio::",
        "Instant",
        "SystemTime",
        "std::thread",
        "std::fs",
        "std::env",
        "std::process",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "std::os::",
        "thread_rng",
        "from_entropy",
        "OsRng",
        "println!(",
        "eprintln!(",
    ];
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !PURE.iter().any(|(_, dir)| name.starts_with(&format!("{dir}/src/"))) || is_test_module(&name) {
            continue;
        }
        for (line, code) in code(&text) {
            let code = code.split(" //").next().unwrap_or("");
            found.extend(
                forbidden
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{name}:{line}: {word}")),
            );
        }
    }
    assert_none(
        &found,
        "net, consensus, engine and server/node take time, bytes and randomness as arguments; the edge has them:",
    );
}

/// Whether a file is compiled for tests only, by this tree's names for such files.
fn is_test_module(name: &str) -> bool {
    name.ends_with("/tests.rs")
        || name.ends_with("_tests.rs")
        || name.contains("/tests/")
        || name.contains("/benches/")
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_to_do() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            let marks = ["#[ignore", "todo!(", "unimplemented!(", "FIXME", "XXX"];
            found.extend(
                marks
                    .iter()
                    .filter(|mark| line.contains(**mark))
                    .map(|mark| format!("{name}:{}: {mark}", at + 1)),
            );
        }
    }
    assert_none(&found, "make the test run or take it out; write the code or an issue:");
}

#[test]
fn unsafe_code_is_where_it_may_be_and_says_why_it_holds() {
    let allowed =
        ["engine/src/tree/", "server/src/edge/", "server/src/sys/", "server/tests/", "benches/", "tools/"];
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (line, code) in code(&text) {
            let code = code.split(" //").next().unwrap_or("");
            if !(code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn")) {
                continue;
            }
            if !allowed.iter().any(|dir| name.starts_with(dir)) && !is_test_module(&name) {
                found.push(format!("{name}:{line}: unsafe outside of {allowed:?}"));
            }
            // The comment stands in the lines just above, between attributes and other lines of the statement.
            let above = &lines[line.saturating_sub(12)..line];
            if !above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                found.push(format!("{name}:{line}: no SAFETY comment"));
            }
        }
    }
    assert_none(
        &found,
        "unsafe belongs to kernels and the edge, each block with `// SAFETY:` and why it holds:",
    );
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = sources()
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert_none(&long, &format!("more than {LINES_MAX} lines; cut the file by concern:"));
}

#[test]
fn the_root_holds_what_the_map_names() {
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "benches",
        "consensus",
        "engine",
        "net",
        "server",
        "tools",
        "tuning",
    ];
    let output =
        Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).expect("UTF-8 names");
    let entries: BTreeSet<&str> = files
        .split('\0')
        .filter_map(|name| name.split('/').next())
        .filter(|name| !name.is_empty() && !name.starts_with('.'))
        .collect();
    assert_eq!(entries, BTreeSet::from(expected), "the README's map and this list name the top of the tree");
}

#[test]
fn every_crate_is_linted_alike() {
    for manifest in [
        "net",
        "consensus",
        "engine",
        "server/node",
        "server",
        "tools/counted",
        "tools/ctl",
        "tools/medium",
        "tools/planted",
        "tools/sim",
        "tools/testkit",
        "benches",
    ] {
        let text = fs::read_to_string(root().join(manifest).join("Cargo.toml")).expect("readable");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{manifest}/Cargo.toml: add [lints] workspace = true"
        );
    }
}

/// Where each exit code is provoked: its number, the file below `server/tests`, the test. A test's body names the code.
const EXIT_TESTS: [(u8, &str, &str); 20] = [
    (1, "flags.rs", "a_mistake_in_the_initial_cluster_counts_only_without_data"),
    (2, "flags.rs", "version_help_and_wrong_flags"),
    (10, "flags.rs", "directories_that_cannot_be_ours"),
    (11, "flags.rs", "directories_that_cannot_be_ours"),
    (12, "flags.rs", "a_second_server_on_the_directory_or_the_port_is_turned_away"),
    (13, "flags.rs", "tmpfs_is_no_disk"),
    (14, "flags.rs", "too_little_locked_memory"),
    (15, "flags.rs", "a_filter_that_denies_io_uring_is_named"),
    (16, "flags.rs", "a_second_server_on_the_directory_or_the_port_is_turned_away"),
    (17, "flags.rs", "an_address_of_another_machine"),
    (18, "flags.rs", "certificates_that_cannot_be_used"),
    (19, "faults/exits.rs", "a_tree_file_of_another_member_is_refused"),
    (20, "e2e/damage.rs", "a_flipped_bit_in_the_log_is_never_passed_over"),
    (21, "e2e/damage.rs", "a_flipped_bit_in_the_tree_is_never_served"),
    (22, "faults/errors.rs", "an_error_of_a_log_write_ends_the_process"),
    (23, "faults/exits.rs", "a_log_device_that_falls_silent_ends_the_process"),
    (24, "faults/errors.rs", "an_error_of_a_checkpoint_ends_the_process"),
    (25, "faults/space.rs", "a_first_start_on_a_full_file_system_is_refused"),
    (26, "flags.rs", "what_the_system_refuses_otherwise_is_told"),
    (27, "cluster/membership.rs", "a_removed_member_stops_and_stays_away"),
];

#[test]
fn every_exit_code_is_provoked_by_a_test() {
    let sources: BTreeMap<String, String> = sources().into_iter().collect();
    let codes: Vec<u8> = FatalReason::ALL.iter().map(|reason| reason.exit_code()).collect();
    assert_eq!(EXIT_TESTS.map(|(code, ..)| code).to_vec(), codes, "a row for each code of sys/fatal.rs");
    let mut missing = Vec::new();
    for (code, file, test) in EXIT_TESTS {
        let text = sources.get(&format!("server/tests/{file}")).map_or("", String::as_str);
        let (before, rest) = text.split_once(&format!("fn {test}() {{")).unwrap_or_default();
        let runs =
            before.trim_end_matches("async ").lines().next_back().is_some_and(|line| line.starts_with("#["));
        let body = rest.split("\n}").next().unwrap_or("");
        let mut numbers = body.split(|c: char| !c.is_ascii_digit());
        if !runs || !numbers.any(|number| number == code.to_string()) {
            missing.push(format!("{code}: server/tests/{file}, {test}"));
        }
    }
    assert_none(&missing, "no such test, or it doesn't name the code; provoke it and say here where:");
}
