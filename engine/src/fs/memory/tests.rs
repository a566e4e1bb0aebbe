use super::*;

const SEEDS: std::ops::Range<u64> = 0..32;

fn file_in(fs: &MemoryFs) -> Arc<dyn File> {
    fs.create_dir_all(Path::new("/d")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap()
}

fn read(fs: &MemoryFs, path: &str) -> io::Result<Vec<u8>> {
    let file = fs.open(Path::new(path), OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap()];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[test]
fn what_is_synced_survives_and_each_sector_of_the_rest_lives_or_dies() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[2; 1024], 0).unwrap();
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let after = read(&fs.crash(seed), "/d/a").unwrap();
        assert_eq!(after, read(&fs.crash(seed), "/d/a").unwrap());
        assert!(after[..512].iter().all(|byte| *byte == after[0]));
        assert!(after[512..].iter().all(|byte| *byte == after[512]));
        seen.insert((after[0], after[512]));
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(read(&fs.restart(), "/d/a").unwrap(), [2; 1024]);
}

#[test]
fn a_name_without_a_sync_of_its_folder_may_vanish_and_a_rename_is_whole() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    file.sync().unwrap();
    let kept = SEEDS.filter(|&seed| fs.crash(seed).exists(Path::new("/d/a")).unwrap()).count();
    assert!(kept > 0 && kept < 32, "{kept}");
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
    for seed in SEEDS {
        let after = fs.crash(seed);
        let names = ["/d/a", "/d/b"].map(|name| after.exists(Path::new(name)).unwrap());
        assert!(names[0] != names[1], "{names:?}");
    }
}

#[test]
fn a_folder_is_renamed_with_what_is_durable_in_it() {
    let fs = MemoryFs::new();
    file_in(&fs).sync().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.open(Path::new("/d/unsynced"), OpenMode::CreateNew).unwrap();
    fs.rename(Path::new("/d"), Path::new("/e")).unwrap();
    let names = |fs: &MemoryFs, dir: &str| fs.list(Path::new(dir)).map(|all| all.len()).unwrap_or_default();
    assert_eq!((names(&fs, "/d"), names(&fs, "/e")), (0, 2));
    for seed in SEEDS {
        let after = fs.crash(seed);
        let there = ["/d/a", "/e/a"].map(|name| after.exists(Path::new(name)).unwrap());
        assert!(there[0] != there[1], "{there:?}");
    }
    fs.sync_dir(Path::new("/")).unwrap();
    let kept = SEEDS.filter(|&seed| names(&fs.crash(seed), "/e") == 2).count();
    assert!(kept > 0 && kept < 32, "{kept}");
    fs.sync_dir(Path::new("/e")).unwrap();
    assert!(SEEDS.into_iter().all(|seed| names(&fs.crash(seed), "/e") == 2));
    fs.create_dir_all(Path::new("/f")).unwrap();
    assert_eq!(fs.rename(Path::new("/f"), Path::new("/e")).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_folder_that_is_made_where_another_was_holds_nothing_of_it_after_any_loss_of_power() {
    let fs = MemoryFs::new();
    file_in(&fs).sync().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    let (old, new) = (Path::new("/d"), Path::new("/e"));
    fs.rename(old, new).unwrap();
    fs.remove(&new.join("a")).unwrap();
    fs.remove_dir(new).unwrap();
    fs.create_dir_all(new).unwrap();
    fs.open(&new.join("b"), OpenMode::CreateNew).unwrap();
    fs.sync_dir(new).unwrap();
    let names = |fs: &MemoryFs, dir: &Path| -> Vec<String> {
        fs.list(dir).unwrap_or_default().into_iter().map(|entry| entry.name).collect()
    };
    for seed in SEEDS {
        let after = fs.crash(seed);
        let there = [names(&after, old), names(&after, new)].concat();
        assert!(there.len() <= 2 && !names(&after, old).contains(&"b".to_owned()), "{there:?}");
        assert!(names(&after, new).len() <= 1, "{there:?}");
    }
    fs.rename(new, old).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    for seed in SEEDS {
        let after = fs.crash(seed);
        assert_eq!((names(&after, old), names(&after, new)), (vec!["b".to_owned()], Vec::new()));
    }
}

#[test]
fn after_a_failed_sync_the_bytes_read_back_but_never_become_durable() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    file.write_at(&[1; 512], 0).unwrap();
    file.sync().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    fs.fail_operation(fs.operations(), ErrorKind::Other);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(read(&fs, "/d/a").unwrap(), [2; 512]);
    SEEDS.for_each(|seed| assert_eq!(read(&fs.crash(seed), "/d/a").unwrap(), [1; 512]));
    file.write_at(&[3; 512], 0).unwrap();
    file.sync().unwrap();
    SEEDS.for_each(|seed| assert_eq!(read(&fs.crash(seed), "/d/a").unwrap(), [3; 512]));
}

#[test]
fn a_full_device_refuses_growth_only() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    fs.set_capacity(Some(1000));
    file.write_at(&[1; 1000], 0).unwrap();
    assert_eq!(file.write_at(&[1; 2], 999).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(&[2; 1000], 0).unwrap();
    assert_eq!(fs.free_bytes(Path::new("/d")).unwrap(), 0);
    fs.remove(Path::new("/d/a")).unwrap();
    assert_eq!(fs.free_bytes(Path::new("/d")).unwrap(), 1000);
}

#[test]
fn a_stopped_machine_does_nothing_more() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    fs.stop_at(fs.operations());
    assert!(file.write_at(&[1; 512], 0).is_err());
    assert!(file.sync().is_err());
    assert!(fs.rename(Path::new("/d/a"), Path::new("/d/b")).is_err());
    assert!(fs.exists(Path::new("/d/a")).unwrap());
}

#[test]
fn a_failure_with_a_seed_leaves_a_part_of_what_was_asked_for() {
    let (mut prefixes, mut seen, mut after_power) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for seed in SEEDS {
        let fs = MemoryFs::new();
        let file = file_in(&fs);
        file.write_at(&[1; 512], 0).unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        fs.fail_operation(fs.operations(), Failure { kind: ErrorKind::StorageFull, partly: Some(seed) });
        assert_eq!(file.write_at(&[2; 4], 512).unwrap_err().kind(), ErrorKind::StorageFull);
        prefixes.insert(file.size().unwrap());
        file.write_at(&[3; 512], 0).unwrap();
        fs.fail_operation(fs.operations(), Failure { kind: ErrorKind::Other, partly: Some(seed) });
        assert!(file.sync().is_err());
        seen.insert(read(&fs, "/d/a").unwrap()[0]);
        file.sync().unwrap();
        let lost = read(&fs.crash(seed), "/d/a").unwrap()[0];
        after_power.insert((read(&fs, "/d/a").unwrap()[0], lost));
    }
    assert_eq!(prefixes, (512..=516).collect());
    assert_eq!(seen, BTreeSet::from([1, 3]));
    // Lost and shown as it was; lost and shown as written; on the disk before the failure.
    assert_eq!(after_power, BTreeSet::from([(1, 1), (3, 1), (3, 3)]));
}

#[test]
fn every_operation_is_noted_by_the_names_that_its_files_have_then() {
    let fs = MemoryFs::new();
    fs.record_operations(true);
    let file = file_in(&fs);
    file.write_at(&[1; 7], 3).unwrap();
    fs.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
    fs.fail_operation(fs.operations(), ErrorKind::StorageFull);
    file.write_at(&[1; 7], 10).unwrap_err();
    file.sync().unwrap();
    fs.link(Path::new("/d/b"), Path::new("/d/c")).unwrap();
    file.set_size(1).unwrap();
    fs.remove(Path::new("/d/b")).unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    let told: Vec<String> = fs.journal().iter().map(ToString::to_string).collect();
    let expected = [
        "create-dir /d",
        "sync-dir /",
        "create /d/a",
        "write /d/a 3+7",
        "rename /d/a -> /d/b",
        "write /d/b 10+7: failed (no storage space)",
        "sync /d/b",
        "link /d/b -> /d/c",
        "set-size /d/c 1",
        "remove /d/b",
        "sync-dir /d",
    ];
    assert_eq!(told, expected);
    assert_eq!(fs.journal().last().unwrap().number, 10);
    assert_eq!(fs.used_bytes(), 1);
}

#[test]
fn a_watcher_sees_the_state_before_each_operation_and_what_a_torn_write_leaves() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    fs.watch(move |step| {
        sink.lock().unwrap().push((step.operation().number, step.before(), step.torn(5)));
    });
    file.write_at(&[1; 600], 0).unwrap();
    file.sync().unwrap();
    file.write_at(&[2; 600], 0).unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let numbers: Vec<u64> = seen.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, [3, 4, 5]);
    assert_eq!(read(&seen[0].1, "/d/a").unwrap(), []);
    let torn = read(seen[0].2.as_ref().unwrap(), "/d/a").unwrap();
    assert!(!torn.is_empty() && torn.len() < 600 && torn.iter().all(|byte| *byte == 1));
    assert_eq!(read(&seen[1].1, "/d/a").unwrap(), [1; 600]);
    assert!(seen[1].2.is_none(), "a sync is not torn");
    assert_eq!(read(&seen[2].1, "/d/a").unwrap(), [1; 600]);
    assert_eq!(read(&fs, "/d/a").unwrap(), [2; 600]);
}

#[test]
fn a_flipped_bit_is_seen_and_stays_after_a_loss_of_power() {
    let fs = MemoryFs::new();
    let file = file_in(&fs);
    file.write_at(&[0; 600], 0).unwrap();
    file.sync().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    fs.flip(Path::new("/d/a"), 599, 3).unwrap();
    fs.flip(Path::new("/d/a"), 600, 3).unwrap();
    for disk in [fs.restart(), fs.crash(1)] {
        let bytes = read(&disk, "/d/a").unwrap();
        assert_eq!((bytes.len(), bytes[598], bytes[599]), (600, 0, 8));
    }
    assert!(fs.flip(Path::new("/d/b"), 0, 0).is_err());
}

/// A name's removal overtook the renaming that had made it, in a sync of the folder that failed: the next sync made
/// durable what nobody saw any more.
#[test]
fn what_a_folder_shows_is_durable_after_a_sync_whatever_became_of_a_failed_one_before() {
    for seed in SEEDS {
        let fs = MemoryFs::new();
        file_in(&fs).sync().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        fs.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        fs.remove(Path::new("/d/b")).unwrap();
        fs.open(Path::new("/d/a"), OpenMode::CreateNew).unwrap().sync().unwrap();
        fs.rename(Path::new("/d/a"), Path::new("/d/c")).unwrap();
        fs.fail_operation(fs.operations(), Failure { kind: ErrorKind::Other, partly: Some(seed) });
        assert!(fs.sync_dir(Path::new("/d")).is_err());
        fs.sync_dir(Path::new("/d")).unwrap();
        for disk in [fs.restart(), fs.crash(seed)] {
            let names: Vec<_> =
                disk.list(Path::new("/d")).unwrap().into_iter().map(|entry| entry.name).collect();
            assert_eq!(names, ["c"], "seed {seed}");
        }
    }
}
