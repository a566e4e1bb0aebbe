//! What a node keeps of libraries, with those of others; none is run.

use std::sync::atomic::{AtomicUsize, Ordering};

use haypile_engine::fs::memory::MemoryFs;

use super::*;

const DIR: &str = "/store";

/// A library of this name with one function, of the same name.
fn library(text: &Bytes) -> Result<Library, Fail> {
    let (name, _) = head(text)?;
    let function = Function { name: name.clone(), description: None, flags: Vec::new() };
    Ok(Library { name, text: text.clone(), functions: vec![function] })
}

fn text(name: &str) -> Bytes {
    Bytes::from(format!("#!lua name={name}\n"))
}

fn opened(fs: &MemoryFs) -> Functions {
    let (functions, read) = Functions::open(fs, Path::new(DIR), library);
    assert_eq!(read, Ok(()));
    functions
}

fn begun() -> (MemoryFs, Functions) {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new(DIR)).expect("an empty file system takes a folder");
    let functions = opened(&fs);
    (fs, functions)
}

fn add(fs: &MemoryFs, functions: &Functions, name: &str) {
    let library = library(&text(name)).expect("it is one");
    functions.add(fs, library, false).expect("it is kept");
}

/// Takes these libraries as those of the node `from`.
fn take(fs: &MemoryFs, functions: &Functions, from: &str, names: &[&str]) {
    let texts: Vec<Bytes> = names.iter().map(|name| text(name)).collect();
    let payload = Bytes::from(rdb::dump_functions(texts.iter().map(|text| &text[..])));
    let seen = functions.changes().count();
    let taken = functions.take(fs, &payload, library, from, seen);
    assert!(matches!(taken, Ok(true)), "{taken:?}");
    assert_eq!(functions.kept().as_deref(), Some(&payload[..]));
}

/// The names of the libraries in the file beside, if it is there; it is removed.
fn before(fs: &MemoryFs) -> Option<Vec<String>> {
    let file = Path::new(DIR).join(BEFORE);
    let texts = texts(fs, &file).expect("it can be read")?;
    fs.remove(&file).expect("it is there");
    Some(texts.iter().map(|text| head(text).expect("a library").0).collect())
}

#[test]
fn a_node_that_never_had_libraries_is_emptied_once_and_says_so() {
    let (fs, functions) = begun();
    assert_eq!((functions.sha(), functions.kept()), (None, None));
    functions.clear(&fs).expect("it is kept");
    assert_eq!(functions.changes().count(), 1);
    assert_eq!(functions.kept(), Some(functions.dump()));
    // Again, and after a start: nothing to do.
    functions.clear(&fs).expect("it is kept");
    assert_eq!(functions.changes().count(), 1);
    let again = opened(&fs);
    assert_eq!(again.sha(), functions.sha());
    again.clear(&fs).expect("it is kept");
    assert_eq!(again.changes().count(), 0);
}

/// A disk may take seconds for a sync; FCALL looks for its function while it holds slots.
#[test]
fn functions_are_found_while_a_change_waits_for_the_disk() {
    let (fs, functions) = begun();
    add(&fs, &functions, "one");
    let functions = Arc::new(functions);
    let looks = Arc::new(AtomicUsize::new(0));
    let (seen, looked) = (functions.clone(), looks.clone());
    fs.during_syncs(Path::new(DIR), move || {
        assert!(seen.known.try_lock().is_ok());
        assert!(seen.find(b"one").is_some() && seen.find(b"two").is_none());
        looked.fetch_add(1, Ordering::Relaxed);
    });
    add(&fs, &functions, "two");
    fs.during_no_sync();
    assert!(looks.load(Ordering::Relaxed) > 0);
    assert!(functions.find(b"two").is_some());
}

#[test]
fn changes_of_several_threads_all_happen() {
    let (fs, functions) = begun();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (fs, functions) = (&fs, &functions);
            scope.spawn(move || (0..8).for_each(|number| add(fs, functions, &format!("l{thread}_{number}"))));
        }
    });
    assert_eq!(functions.all().len(), 32);
    assert_eq!(opened(&fs).sha(), functions.sha());
}

#[test]
fn what_another_nodes_libraries_replace_is_kept_beside_unless_it_was_that_nodes() {
    let (fs, functions) = begun();
    // Nothing was here.
    take(&fs, &functions, "a", &["one"]);
    take(&fs, &functions, "a", &["one", "two"]);
    assert_eq!(before(&fs), None);
    // Its own, as it was another's and has changed here.
    add(&fs, &functions, "own");
    take(&fs, &functions, "a", &["three"]);
    assert_eq!(before(&fs), Some(vec!["one".to_owned(), "own".to_owned(), "two".to_owned()]));
    take(&fs, &functions, "a", &[]);
    assert_eq!(before(&fs), None);
    // Another node's.
    take(&fs, &functions, "a", &["three"]);
    take(&fs, &functions, "b", &["four"]);
    assert_eq!(before(&fs), Some(vec!["three".to_owned()]));
    // Of what is read at a start nobody knows whose it was.
    let again = opened(&fs);
    take(&fs, &again, "b", &["five"]);
    assert_eq!(before(&fs), Some(vec!["four".to_owned()]));
}

#[test]
fn nothing_is_taken_where_what_was_here_can_not_be_kept() {
    let (fs, functions) = begun();
    add(&fs, &functions, "own");
    let kept = functions.kept();
    fs.fail_operation(fs.operations() + 1, std::io::ErrorKind::StorageFull);
    let payload = Bytes::from(rdb::dump_functions(std::iter::empty()));
    let taken = functions.take(&fs, &payload, library, "a", functions.changes().count());
    assert!(taken.is_err(), "{taken:?}");
    assert_eq!((functions.kept(), opened(&fs).kept()), (kept.clone(), kept));
}
