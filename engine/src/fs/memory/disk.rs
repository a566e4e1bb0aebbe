//! Names and files, as they are seen and as they are durable. Copies share what neither changes.

use super::inode::Inode;
use crate::fs::DirEntry;
use crate::random::Coin;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Which file, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct InodeNo(u64);

/// Which folder, whatever it is called: one that is made where another was is not that one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct DirNo(u64);

/// Where all paths begin.
const ROOT: DirNo = DirNo(0);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(InodeNo),
    Dir(DirNo),
}

/// A name in a folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Name {
    dir: DirNo,
    name: Arc<OsStr>,
}

/// All folders, and what each name in them stands for; what can't be reached from [`ROOT`] is gone.
#[derive(Clone, Default)]
struct Names(BTreeMap<DirNo, Arc<BTreeMap<Arc<OsStr>, Node>>>);

impl Names {
    fn at(&self, dir: DirNo, name: &OsStr) -> Option<Node> {
        self.0.get(&dir)?.get(name).copied()
    }

    fn within(&self, dir: DirNo) -> impl Iterator<Item = (&Arc<OsStr>, Node)> {
        self.0.get(&dir).into_iter().flat_map(|names| names.iter().map(|(name, node)| (name, *node)))
    }

    fn remove(&mut self, Name { dir, name }: &Name) {
        if let Some(names) = self.0.get_mut(dir) {
            Arc::make_mut(names).remove(name);
        }
    }

    fn insert(&mut self, Name { dir, name }: &Name, node: Node) {
        if let Node::Dir(inner) = node {
            self.0.entry(inner).or_default();
            // A folder has one name, also where a loss of power keeps its second renaming only.
            for names in self.0.values_mut().filter(|names| names.values().any(|other| *other == node)) {
                Arc::make_mut(names).retain(|_, other| *other != node);
            }
        }
        Arc::make_mut(self.0.entry(*dir).or_default()).insert(Arc::clone(name), node);
    }

    /// Forgets what can't be reached.
    fn prune(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(dir) = next.pop() {
            let inner = self.within(dir).filter_map(|(_, node)| match node {
                Node::Dir(inner) => Some(inner),
                Node::File(_) => None,
            });
            next.extend(inner.filter(|inner| reached.insert(*inner)).collect::<Vec<_>>());
        }
        self.0.retain(|dir, _| reached.contains(dir));
    }

    fn nodes(&self) -> impl Iterator<Item = Node> {
        self.0.values().flat_map(|names| names.values().copied())
    }

    fn all(&self) -> impl Iterator<Item = (Name, Node)> {
        self.0.iter().flat_map(|(&dir, names)| {
            names.iter().map(move |(name, node)| (Name { dir, name: Arc::clone(name) }, *node))
        })
    }

    fn files(&self) -> impl Iterator<Item = (Name, InodeNo)> {
        self.all().filter_map(|(name, node)| match node {
            Node::File(inode) => Some((name, inode)),
            Node::Dir(_) => None,
        })
    }

    fn dirs(&self) -> impl Iterator<Item = (Name, DirNo)> {
        self.all().filter_map(|(name, node)| match node {
            Node::File(_) => None,
            Node::Dir(dir) => Some((name, dir)),
        })
    }
}

/// A change of names that is not durable yet, with the folder whose sync makes it so.
#[derive(Clone, Debug)]
struct NameChange {
    dir: DirNo,
    remove: Option<(Name, Node)>,
    insert: Option<(Name, Node)>,
}

impl NameChange {
    /// The names that it changes.
    fn names(&self) -> impl Iterator<Item = &Name> {
        let removed = self.remove.iter().map(|(name, _)| name);
        removed.chain(self.insert.iter().map(|(name, _)| name))
    }

    fn apply(&self, names: &mut Names) {
        match &self.remove {
            // Another folder has that name: the one that had it is not there, or elsewhere.
            Some((name, node @ Node::Dir(_))) if names.at(name.dir, &name.name) != Some(*node) => {}
            Some((name, _)) => names.remove(name),
            None => {}
        }
        if let Some((name, node)) = &self.insert {
            names.insert(name, *node);
        }
    }
}

#[derive(Clone)]
struct Entry {
    inode: Arc<Inode>,
    links: usize,
    /// The name that it has, or had last.
    name: Name,
}

/// See the file's head.
#[derive(Clone, Default)]
pub(super) struct Disk {
    names: Arc<Names>,
    durable_names: Arc<Names>,
    changes: Arc<Vec<NameChange>>,
    inodes: Arc<BTreeMap<InodeNo, Entry>>,
    next_inode: InodeNo,
    /// The name that each folder has, or had last.
    dirs: Arc<BTreeMap<DirNo, Name>>,
    last_dir: DirNo,
    /// The sizes of all files that have a name.
    used_bytes: u64,
    pub(super) capacity_bytes: Option<u64>,
}

pub(super) fn not_found(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{}: no such file or folder", path.display()))
}

fn exists_already(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::AlreadyExists, format!("{}: exists", path.display()))
}

impl Disk {
    /// What a path stands for.
    fn node(&self, path: &Path) -> Option<Node> {
        path.components().try_fold(Node::Dir(ROOT), |node, component| match (node, component) {
            (_, Component::RootDir | Component::CurDir) => Some(node),
            (Node::Dir(dir), Component::Normal(name)) => self.names.at(dir, name),
            _ => None,
        })
    }

    fn dir(&self, path: &Path) -> io::Result<DirNo> {
        match self.node(path) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(not_found(path)),
        }
    }

    /// The name that a path ends in, in its folder.
    fn place(&self, path: &Path) -> io::Result<Name> {
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().ok_or_else(|| exists_already(path))?;
        Ok(Name { dir, name: Arc::from(name) })
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.node(path).is_some()
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<InodeNo> {
        match self.node(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir(_)) => Err(io::Error::new(ErrorKind::IsADirectory, "is a folder")),
            None => Err(not_found(path)),
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        let above = self.dirs.get(&name.dir).map_or_else(|| PathBuf::from("/"), |name| self.path(name));
        above.join(&*name.name)
    }

    /// The name that a file has, or had last.
    pub(super) fn name(&self, inode: InodeNo) -> PathBuf {
        self.inodes.get(&inode).map(|entry| self.path(&entry.name)).unwrap_or_default()
    }

    pub(super) fn inode(&self, inode: InodeNo) -> &Inode {
        &self.inodes.get(&inode).expect("a file that is open stays").inode
    }

    fn change(&mut self, dir: DirNo, remove: Option<(Name, Node)>, insert: Option<(Name, Node)>) {
        let replaced = insert.as_ref().and_then(|(to, _)| self.names.at(to.dir, &to.name));
        let gone = remove.as_ref().map(|(_, node)| *node);
        let change = NameChange { dir, remove, insert };
        change.apply(Arc::make_mut(&mut self.names));
        match change.insert.clone() {
            Some((name, Node::File(inode))) => self.link(inode, name),
            Some((name, Node::Dir(dir))) => _ = Arc::make_mut(&mut self.dirs).insert(dir, name),
            None => {}
        }
        for node in [gone, replaced].into_iter().flatten() {
            if let Node::File(inode) = node {
                self.unlink(inode);
            }
        }
        Arc::make_mut(&mut self.changes).push(change);
    }

    fn link(&mut self, inode: InodeNo, name: Name) {
        if let Some(entry) = Arc::make_mut(&mut self.inodes).get_mut(&inode) {
            if entry.links == 0 {
                self.used_bytes += entry.inode.len() as u64;
            }
            entry.links += 1;
            entry.name = name;
        }
    }

    fn unlink(&mut self, inode: InodeNo) {
        if let Some(entry) = Arc::make_mut(&mut self.inodes).get_mut(&inode) {
            entry.links -= 1;
            if entry.links == 0 {
                self.used_bytes -= entry.inode.len() as u64;
            }
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<InodeNo> {
        let place = self.place(path)?;
        if self.exists(path) {
            return Err(exists_already(path));
        }
        let inode = self.next_inode;
        self.next_inode = InodeNo(inode.0 + 1);
        let entry = Entry { inode: Arc::default(), links: 0, name: place.clone() };
        Arc::make_mut(&mut self.inodes).insert(inode, entry);
        self.change(place.dir, None, Some((place, Node::File(inode))));
        Ok(inode)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.node(from).ok_or_else(|| not_found(from))?;
        if matches!(node, Node::Dir(_)) && self.exists(to) {
            return Err(exists_already(to));
        }
        let (from, to) = (self.place(from)?, self.place(to)?);
        self.change(to.dir, Some((from, node)), Some((to, node)));
        Ok(())
    }

    pub(super) fn add_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        if self.exists(to) {
            return Err(exists_already(to));
        }
        let place = self.place(to)?;
        self.change(place.dir, None, Some((place, node)));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (node, place) = (Node::File(self.file(path)?), self.place(path)?);
        self.change(place.dir, Some((place, node)), None);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, place) = (self.dir(path)?, self.place(path)?);
        if self.names.within(dir).next().is_some() {
            return Err(io::Error::new(ErrorKind::DirectoryNotEmpty, "not empty"));
        }
        self.change(place.dir, Some((place, Node::Dir(dir))), None);
        Ok(())
    }

    pub(super) fn create_dirs(&mut self, dir: &Path) -> io::Result<()> {
        let mut above: Vec<&Path> = dir.ancestors().collect();
        above.reverse();
        for dir in above {
            match self.node(dir) {
                Some(Node::Dir(_)) => {}
                Some(Node::File(_)) => {
                    let why = format!("{} is a file", dir.display());
                    return Err(io::Error::new(ErrorKind::AlreadyExists, why));
                }
                None => {
                    let place = self.place(dir)?;
                    self.last_dir = DirNo(self.last_dir.0 + 1);
                    self.change(place.dir, None, Some((place, Node::Dir(self.last_dir))));
                }
            }
        }
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let named = self.names.within(self.dir(dir)?).filter_map(|(name, node)| {
            let name = name.to_str()?.to_owned();
            Some(DirEntry { name, is_dir: matches!(node, Node::Dir(_)) })
        });
        Ok(named.collect())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.sync_names(dir, |_| true)
    }

    /// A folder's sync failed: some of its names became durable all the same.
    pub(super) fn scatter_dir(&mut self, dir: &Path, coin: &mut Coin) {
        let _ = self.sync_names(dir, |_| coin.heads());
    }

    fn sync_names(&mut self, dir: &Path, mut reaches: impl FnMut(&NameChange) -> bool) -> io::Result<()> {
        let dir = self.dir(dir)?;
        if !self.changes.iter().any(|change| change.dir == dir) {
            return Ok(());
        }
        let names = Arc::make_mut(&mut self.durable_names);
        // No name's change overtakes an earlier one of the same name: it would be undone by it later.
        let mut behind: BTreeSet<Name> = BTreeSet::new();
        Arc::make_mut(&mut self.changes).retain(|change| {
            let waits = change.names().any(|name| behind.contains(name));
            let synced = change.dir == dir && !waits && reaches(change);
            if synced {
                change.apply(names);
            } else if change.dir == dir {
                behind.extend(change.names().cloned());
            }
            !synced
        });
        Ok(())
    }

    /// Changes a file's bytes, as long as there is room for them.
    fn edit(&mut self, inode: InodeNo, size: usize, edit: impl FnOnce(&mut Inode)) -> io::Result<()> {
        let entry = Arc::make_mut(&mut self.inodes).get_mut(&inode).expect("a file that is open stays");
        let before = entry.inode.len() as u64;
        let grown = (size as u64).saturating_sub(before);
        if self.capacity_bytes.is_some_and(|capacity| grown > 0 && self.used_bytes + grown > capacity) {
            return Err(io::Error::new(ErrorKind::StorageFull, "no space left on the simulated device"));
        }
        edit(Arc::make_mut(&mut entry.inode));
        if entry.links > 0 {
            self.used_bytes = self.used_bytes - before + entry.inode.len() as u64;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, inode: InodeNo, buf: &[u8], offset: usize) -> io::Result<()> {
        self.edit(inode, offset + buf.len(), |file| file.write(buf, offset))
    }

    pub(super) fn set_size(&mut self, inode: InodeNo, size: usize) -> io::Result<()> {
        self.edit(inode, size, |file| file.set_size(size))
    }

    pub(super) fn sync(&mut self, inode: InodeNo, sync: impl FnOnce(&mut Inode)) -> io::Result<()> {
        self.edit(inode, 0, sync)
    }

    pub(super) fn flip(&mut self, path: &Path, offset: usize, bit: u8) -> io::Result<()> {
        let inode = self.file(path)?;
        self.edit(inode, 0, |file| file.flip(offset, bit))
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes))
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// What a loss of power leaves.
    pub(super) fn after_crash(&self, coin: &mut Coin) -> Disk {
        let mut names = Arc::clone(&self.durable_names);
        if !self.changes.is_empty() {
            let names = Arc::make_mut(&mut names);
            for change in self.changes.iter() {
                if coin.heads() {
                    change.apply(names);
                }
            }
            // What lies in a folder that was lost is lost.
            names.prune();
        }
        let mut after = Disk {
            durable_names: Arc::clone(&names),
            dirs: Arc::new(names.dirs().map(|(name, dir)| (dir, name)).collect()),
            names,
            next_inode: self.next_inode,
            last_dir: self.last_dir,
            capacity_bytes: self.capacity_bytes,
            ..Disk::default()
        };
        let mut inodes: BTreeMap<InodeNo, Entry> = BTreeMap::new();
        for (name, number) in after.names.files() {
            let inode = || Arc::clone(&self.inodes.get(&number).expect("a file with a name").inode);
            let entry = inodes.entry(number).or_insert_with(|| Entry { inode: inode(), links: 0, name });
            entry.links += 1;
        }
        for entry in inodes.values_mut() {
            if let Some(inode) = entry.inode.after_crash(coin) {
                entry.inode = Arc::new(inode);
            }
            after.used_bytes += entry.inode.len() as u64;
        }
        after.inodes = Arc::new(inodes);
        after
    }

    /// The same without files that nobody can see again, not even after a loss of power: for a time when no file is open.
    pub(super) fn without_dead_files(mut self) -> Disk {
        let pending = self.changes.iter().filter_map(|change| Some(change.insert.as_ref()?.1));
        let seen = self.names.nodes().chain(self.durable_names.nodes()).chain(pending);
        let seen: BTreeSet<InodeNo> =
            seen.filter_map(|node| if let Node::File(inode) = node { Some(inode) } else { None }).collect();
        if seen.len() < self.inodes.len() {
            Arc::make_mut(&mut self.inodes).retain(|number, _| seen.contains(number));
        }
        self
    }
}
