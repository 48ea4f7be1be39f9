//! What keeps a node from starting, with the key of the configuration to look at.

use std::{io, net::SocketAddr, path::Path};

use state_store::StoreError;

/// Ports below this one are for administrators on most systems.
const FIRST_FREE_PORT: u16 = 1024;

/// An address that the system does not give.
pub(super) fn not_listened_on(at: SocketAddr, error: &io::Error) -> anyhow::Error {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let kind = error.kind();
    let advice = if kind == PermissionDenied && at.port() < FIRST_FREE_PORT {
        "this user may not listen on a port below 1024: set another one, or give the program CAP_NET_BIND_SERVICE"
    } else if kind == AddrInUse {
        "end what has it, or set another port"
    } else if kind == AddrNotAvailable {
        "no interface of this machine has it: set an address that one of them has"
    } else {
        "set another address of this machine"
    };
    anyhow::anyhow!("node.listen: {at} cannot be listened on ({error}): {advice}")
}

/// Makes the folder of the data. One that is itself a database is none.
pub(super) fn make_data_dir(dir: &Path, store: &Path) -> anyhow::Result<()> {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    std::fs::create_dir_all(dir).map_err(|error| {
        let advice = if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) {
            "let this user write to the folder above it, or choose another one"
        } else {
            "choose another one"
        };
        anyhow::anyhow!("{} cannot be created ({error}): {advice} with node.data_dir", dir.display())
    })?;
    anyhow::ensure!(
        store.exists() || !dir.join("CURRENT").exists(),
        "node.data_dir: {} is the folder of a database (it holds a file CURRENT), not one that holds it: give the folder above \
         it if the database is its `store`, else an empty or a new one",
        dir.display()
    );
    Ok(())
}

/// A folder that holds no database of a node.
pub(super) fn not_opened(error: StoreError) -> anyhow::Error {
    const ADVICE: &str =
        "set an empty or a new folder with node.data_dir; if a node has worked there, restore its data";
    if let StoreError::NotADatabase { path, why } = &error {
        return anyhow::anyhow!("{} is there and no database of a node ({why}): {ADVICE}", path.display());
    }
    if let StoreError::MissingFamily { .. } = &error {
        return anyhow::anyhow!("{error}: {ADVICE}");
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_address_that_is_refused_is_told_with_what_helps() {
        let (low, high) = (SocketAddr::from(([127, 0, 0, 1], 80)), SocketAddr::from(([127, 0, 0, 1], 8645)));
        for (at, kind, words) in [
            (low, io::ErrorKind::PermissionDenied, "below 1024"),
            (high, io::ErrorKind::PermissionDenied, "another address"),
            (low, io::ErrorKind::AddrInUse, "end what has it"),
            (high, io::ErrorKind::AddrNotAvailable, "no interface"),
        ] {
            let told = not_listened_on(at, &kind.into()).to_string();
            assert!(told.starts_with(&format!("node.listen: {at} ")) && told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_data_folder_that_is_a_database_itself_or_holds_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (data, store) = (dir.path().join("data"), dir.path().join("data/store"));
        make_data_dir(&data, &store).unwrap();
        fs::write(data.join("CURRENT"), "MANIFEST-000005\n").unwrap();
        let told = make_data_dir(&data, &store).unwrap_err().to_string();
        assert!(told.starts_with("node.data_dir: ") && told.contains("the folder above"), "{told}");
        fs::create_dir(&store).unwrap();
        make_data_dir(&data, &store).unwrap(); // a node has worked there
        fs::write(store.join("letter.txt"), "dear").unwrap();
        let opened = state_store::RocksBackend::open(&store, &state_store::RocksConfig::default());
        let told = not_opened(opened.err().unwrap()).to_string();
        assert!(told.contains("no database of a node") && told.contains("node.data_dir"), "{told}");
    }
}
