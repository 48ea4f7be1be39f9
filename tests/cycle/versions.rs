//! C17, life cycle row 15: a store that a newer program has worked on is refused before any write, whatever was under way.

use std::{num::NonZeroU64, sync::Arc};

use state_pruner::{
    PruneError, Pruner,
    snapshot::{AtomicSnapshotManager, SnapshotManagerConfig},
};
use state_store::{Backend, Batch, Durability, FaultyBackend, Flow, KeyRange, MemoryBackend, Store, Table};
use state_tests::{
    chain::{Chain, STORE},
    check,
    hooks::Hooks,
    rig::{Engine, Plan, Rig, WAYS},
    workload::{Profile, Workload},
};

use crate::{incremental::Swept, resume::StopAt};

/// One row of a table.
type Row = (Table, Vec<u8>, Vec<u8>);

/// Every record of ours, of those that each order has the newest.
fn records(memory: &MemoryBackend) -> Vec<Row> {
    let view = memory.view().unwrap();
    let rows = |table: Table| {
        let mut rows = Vec::new();
        view.scan(&table, &KeyRange::ALL, &mut |key, value| {
            rows.push((table.clone(), key.to_vec(), value.to_vec()));
            Flow::Continue(())
        })
        .unwrap();
        rows
    };
    let newest = [Table::ROOT, Table::JOURNAL].into_iter().filter_map(|table| rows(table).pop());
    let single = [Table::CHAIN, Table::META, Table::SNAPSHOT].into_iter().flat_map(rows);
    single.chain(newest).filter(|(_, _, value)| value.starts_with(b"SPR1")).collect()
}

/// The record as the next version of the program would write it.
fn one_version_later(record: &[u8]) -> Vec<u8> {
    let mut body = record[..record.len() - 4].to_vec();
    body[8] += 1;
    body.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    body
}

/// Neither store, pruner nor manager opens what has this row, and nothing is written.
fn refuses(rig: &Rig, plan: &Plan, (table, key, record): Row) {
    let context = format!("{}/{}", table.name(), String::from_utf8_lossy(&key));
    let (memory, mut batch) = (rig.memory().copy(), Batch::new());
    batch.put(table, key, one_version_later(&record));
    memory.write(&batch, Durability::Logged).unwrap();
    let faulty = FaultyBackend::over(memory);
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    let errors = match Store::open(Arc::clone(&backend), STORE) {
        Err(error) => vec![PruneError::from(error)],
        Ok(store) => {
            let chain = Chain { store: Arc::new(store), archive: Arc::clone(&rig.chain.archive) };
            let rig = Rig::on(chain, backend);
            let parts = rig.parts(NonZeroU64::MIN, &Hooks::none());
            let manager = AtomicSnapshotManager::new(parts, SnapshotManagerConfig::default());
            let started = Pruner::start(rig.pruner_parts(&Hooks::none()), plan.clone().pruner());
            vec![manager.initialize().unwrap_err(), started.map(|_| ()).unwrap_err()]
        }
    };
    for error in errors {
        assert_eq!(error.code(), "newer", "{context}: {error}");
    }
    assert_eq!(faulty.writes(), 0, "{context}");
}

#[test]
fn upgrade_and_downgrade_in_each_phase() {
    let base = Rig::new(Engine::Memory);
    base.chain.grow(Profile::Tables, 64, 30);
    for (mark, sweep) in [WAYS[0], WAYS[3]] {
        for at in 0.. {
            let rig = base.twin();
            let plan = rig.plan(6).in_order().batches(60).by(mark, sweep);
            let (ended, moments) = StopAt::run(&rig, &plan, at);
            if moments <= at {
                assert!(at > 3 && ended.is_ok(), "{mark:?} {sweep:?} moment {at}");
                break;
            }
            records(rig.memory()).into_iter().for_each(|record| refuses(&rig, &plan, record));
            let rig = rig.restart();
            plan.resume(&rig.env(&plan, &Hooks::none())).unwrap();
            rig.cycle(&plan);
            check::exact(&rig.chain, &format!("{mark:?} {sweep:?} moment {at}: the program it is of goes on"));
        }
    }
}

#[test]
fn a_cursor_of_a_newer_program_is_refused_between_slices() {
    let rig = Rig::new(Engine::Memory);
    let mut workload = Workload::new(Profile::Tables, 65);
    rig.chain.run(&mut workload, 20);
    let mut swept = Swept::new(rig, 4);
    swept.cycle();
    swept.rig.chain.run(&mut workload, 20);
    let has_layers = |swept: &Swept| records(swept.rig.memory()).iter().any(|(_, key, _)| key.starts_with(b"expiry/"));
    while !has_layers(&swept) {
        assert!(swept.round(1, 3).slices > 0, "no tree was dropped");
    }
    let plan = swept.rig.plan(4);
    records(swept.rig.memory()).into_iter().for_each(|record| refuses(&swept.rig, &plan, record));
    swept.drain();
    swept.check(&[], "the program it is of goes on");
}
