//! A store of somebody else, and places that are not there yet.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    process::Command,
};

use serde_json::Value;
use state_tests::{
    folder, node,
    skip::{Lack, skipped},
};

use crate::support::{Place, id};

const NOBODY: u32 = 65_534;

/// Where links to files of another owner are refused, as Linux does by default.
#[test]
fn a_store_of_another_owner_is_copied_where_it_cannot_be_linked() {
    let place = Place::native();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.path(""), open).unwrap();
    fs::create_dir(place.catalog_dir()).unwrap();
    if chown(place.catalog_dir(), Some(NOBODY), Some(NOBODY)).is_err() {
        return skipped("a store of another owner", Lack::Users, "only root has another user at hand");
    }
    let as_nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program]);
        command
    };
    let binary = node::binary().display().to_string();
    let table = folder::with_ending(place.db(), "sst").remove(0);
    let linked = as_nobody("ln").args([table.clone(), place.catalog_dir().join("link")]).output();
    let reached = as_nobody(&binary).arg("--version").output();
    if !linked.is_ok_and(|linked| !linked.status.success()) || !reached.is_ok_and(|ran| ran.status.success()) {
        return skipped(
            "a store of another owner",
            Lack::Other,
            "links are allowed here, or the binary is out of reach",
        );
    }
    let before = folder::digests(place.db());
    let made = as_nobody(&binary).args(place.creating(&[])).output().unwrap();
    let told: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(made.status.success(), "{told:#}");
    assert_eq!((told["links_refused"].as_bool(), told["manifest"]["linked_files"].as_u64()), (Some(true), Some(0)));
    let said = as_nobody(&binary).args(place.creating(&[]).iter().filter(|word| *word != "--json")).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("every file was copied"), "{said}");
    assert_eq!(place.ask(&["verify", &id(&told), "--deep"]).0, 0);
    assert_eq!(folder::digests(place.db()), before, "nothing is written into the store");
    let own = place.create(&[]);
    assert_eq!(own["links_refused"], false, "its owner links");
}

/// Without the right to read a folder nobody can sync it, so a name in it may be lost with the power.
#[test]
fn a_catalog_is_not_made_where_its_folder_cannot_be_made_durable() {
    let place = Place::native();
    let (open, unreadable) = (fs::Permissions::from_mode(0o755), fs::Permissions::from_mode(0o333));
    fs::set_permissions(place.path(""), open.clone()).unwrap();
    let above = place.path("above");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, unreadable).unwrap();
    let to = above.join("of/catalog").display().to_string();
    let db = place.db().display().to_string();
    let words = ["snapshot", "create", "--db", &db, "--layout", "native", "--catalog", &to, "--json"];
    let binary = node::binary().display().to_string();
    let made = if fs::read_dir(&above).is_ok() {
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", &binary];
        Command::new("setpriv").args(nobody).args(words).output()
    } else {
        Command::new(&binary).args(words).output()
    };
    fs::set_permissions(&above, open).unwrap();
    let told = made.map_or(Value::Null, |made| serde_json::from_slice(&made.stdout).unwrap_or(Value::Null));
    if told.is_null() {
        return skipped(
            "a catalog that is not durable",
            Lack::Users,
            "only root has another user at hand, or setpriv is missing",
        );
    }
    assert_eq!(told["error"]["code"], "permission", "{told:#}");
    assert!(told["error"]["message"].as_str().unwrap().contains("above"), "{told:#}");
}

#[test]
fn a_restore_makes_the_folders_above_its_place_and_none_for_a_snapshot_that_is_not_there() {
    let place = Place::native();
    let id = id(&place.create(&[]));
    let unknown = id.replace(&id[id.len() - 8..], "00000000");
    let to = place.path("data/of/node/store").display().to_string();
    assert_eq!(place.refusal(&["restore", &unknown, "--to", &to]).0, "unknown_snapshot");
    assert!(!place.path("data").exists());
    assert_eq!(place.ask(&["restore", &id, "--to", &to]).0, 0);
    let (code, report) = node::json(&["verify", "--db", &to, "--layout", "native", "--keep-last", "5"]);
    assert_eq!(code, 0, "{report}");
    fs::write(place.path("file"), b"mine").unwrap();
    let below = place.path("file/store").display().to_string();
    assert_eq!(place.refusal(&["restore", &id, "--to", &below]).0, "bad_place");
}
