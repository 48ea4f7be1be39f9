//! Files that the engine needs no more and cannot remove.

use state_powerloss::{Call, Device, Fault, Files, Lasting};
use state_pruner::{Freeze, SweepChoice, mark::MarkChoice};
use state_tests::{chain::STORE, check, hooks::Hooks};

use crate::support::{Disk, History, plan};

#[test]
fn files_that_cannot_be_removed_cost_no_cycle_and_go_when_the_store_is_opened_again() {
    let history = History::with_a_log();
    for (files, ending) in [(Files::Log, ".log"), (Files::Table, ".sst"), (Files::Blob, ".blob")] {
        let context = format!("{files:?}");
        let disk = Disk::of(&history, Device::keeping(), STORE);
        let of_kind = || disk.files().into_iter().filter(|name| name.ends_with(ending)).collect::<Vec<_>>();
        let before = of_kind();
        let stay = |now: &[String]| before.iter().all(|name| now.contains(name));
        disk.device.fail(Fault::first(files, Call::Remove, Lasting::UntilMended));
        let rig = disk.open(&context);
        let plan = plan(&rig).by(MarkChoice::Scan, SweepChoice::Filter);
        let env = rig.env(&plan, &Hooks::none());
        plan.run(&env).unwrap();
        check::exact(&rig.chain, &context);
        assert!(Freeze::load(&*env.parts.records).unwrap().is_none(), "{context}");
        assert!(disk.device.met() > 0 && stay(&of_kind()), "{context}");
        disk.device.mend();
        let head = rig.chain.head();
        drop((env, rig));
        disk.comes_back(head, &context);
        assert!(!stay(&of_kind()), "{context}: what was left is still there");
    }
}
