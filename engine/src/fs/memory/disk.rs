//! Names and files, as they are seen and as they are durable. Copies share what neither changes.

use super::inode::Inode;
use crate::fs::DirEntry;
use crate::random::Coin;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which file, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct InodeNo(u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(InodeNo),
    Dir,
}

type Names = BTreeMap<Arc<Path>, Node>;

/// A change of names that is not durable yet, with the folder whose sync makes it so.
#[derive(Clone, Debug)]
struct NameChange {
    dir: PathBuf,
    remove: Option<Arc<Path>>,
    insert: Option<(Arc<Path>, Node)>,
}

/// `path` where it lies after the folder `from` was renamed; `None` if it does not lie in it.
fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok().filter(|rest| !rest.as_os_str().is_empty())?;
    Some(to.join(rest))
}

impl NameChange {
    /// The folder that it renames, and to what.
    fn renamed_dir(&self) -> Option<(&Path, &Path)> {
        match (&self.remove, &self.insert) {
            (Some(from), Some((to, Node::Dir))) => Some((from, to)),
            _ => None,
        }
    }

    /// This change after the folder `from` was renamed, if what it changes lies in it.
    fn follow(&mut self, from: &Path, to: &Path) {
        let inside = self.insert.as_mut().map(|(path, _)| path);
        for path in self.remove.iter_mut().chain(inside) {
            if let Some(now) = moved(path, from, to) {
                *path = now.into();
            }
        }
        if self.dir == from {
            self.dir = to.to_owned();
        } else if let Some(now) = moved(&self.dir, from, to) {
            self.dir = now;
        }
    }

    /// Does it; gives the files that moved with their folder, and where they are now.
    fn apply(&self, names: &mut Names) -> Vec<(Arc<Path>, Node)> {
        let mut followed = Vec::new();
        if let Some((from, to)) = self.renamed_dir() {
            let inside = names
                .iter()
                .filter_map(|(path, &node)| Some((path.clone(), (Arc::from(moved(path, from, to)?), node))));
            for (old, (new, node)) in inside.collect::<Vec<(_, (Arc<Path>, _))>>() {
                names.remove(&old);
                names.insert(Arc::clone(&new), node);
                followed.push((new, node));
            }
        }
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, node)) = &self.insert {
            names.insert(Arc::clone(path), *node);
        }
        followed
    }
}

#[derive(Clone)]
struct Entry {
    inode: Arc<Inode>,
    links: usize,
    /// The name that it has, or had last.
    name: Arc<Path>,
}

/// See the file's head.
#[derive(Clone, Default)]
pub(super) struct Disk {
    names: Arc<Names>,
    durable_names: Arc<Names>,
    changes: Arc<Vec<NameChange>>,
    inodes: Arc<BTreeMap<InodeNo, Entry>>,
    next_inode: InodeNo,
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

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

impl Disk {
    pub(super) fn has_dir(&self, dir: &Path) -> bool {
        dir.parent().is_none() || dir.as_os_str().is_empty() || self.names.get(dir) == Some(&Node::Dir)
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.names.contains_key(path) || self.has_dir(path)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<InodeNo> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::Error::new(ErrorKind::IsADirectory, "is a folder")),
            None => Err(not_found(path)),
        }
    }

    /// The name that a file has, or had last.
    pub(super) fn name(&self, inode: InodeNo) -> PathBuf {
        self.inodes.get(&inode).map(|entry| entry.name.to_path_buf()).unwrap_or_default()
    }

    pub(super) fn inode(&self, inode: InodeNo) -> &Inode {
        &self.inodes.get(&inode).expect("a file that is open stays").inode
    }

    fn needs_dir_of(&self, path: &Path) -> io::Result<()> {
        let dir = parent(path);
        if self.has_dir(&dir) { Ok(()) } else { Err(not_found(&dir)) }
    }

    fn change(&mut self, dir: PathBuf, remove: Option<&Path>, insert: Option<(&Path, Node)>) {
        let made = insert.map(|(path, node)| (Arc::from(path), node));
        let change = NameChange { dir, remove: remove.map(Arc::from), insert: made };
        let names = Arc::make_mut(&mut self.names);
        let node_at = |path: Option<&Path>| path.and_then(|path| names.get(path).copied());
        let gone = [node_at(remove), node_at(insert.map(|(path, _)| path))];
        let followed = change.apply(names);
        if let Some((path, Node::File(inode))) = change.insert.clone() {
            self.link(inode, path);
        }
        for node in gone.into_iter().flatten() {
            if let Node::File(inode) = node {
                self.unlink(inode);
            }
        }
        for (path, node) in followed {
            if let Node::File(inode) = node
                && let Some(entry) = Arc::make_mut(&mut self.inodes).get_mut(&inode)
            {
                entry.name = path;
            }
        }
        Arc::make_mut(&mut self.changes).push(change);
    }

    fn link(&mut self, inode: InodeNo, name: Arc<Path>) {
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
        self.needs_dir_of(path)?;
        if self.names.contains_key(path) {
            return Err(exists_already(path));
        }
        let inode = self.next_inode;
        self.next_inode = InodeNo(inode.0 + 1);
        let entry = Entry { inode: Arc::default(), links: 0, name: Arc::from(path) };
        Arc::make_mut(&mut self.inodes).insert(inode, entry);
        self.change(parent(path), None, Some((path, Node::File(inode))));
        Ok(inode)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = *self.names.get(from).ok_or_else(|| not_found(from))?;
        if node == Node::Dir && self.names.contains_key(to) {
            return Err(exists_already(to));
        }
        self.needs_dir_of(to)?;
        self.change(parent(to), Some(from), Some((to, node)));
        Ok(())
    }

    pub(super) fn add_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        if self.names.contains_key(to) {
            return Err(exists_already(to));
        }
        self.needs_dir_of(to)?;
        self.change(parent(to), None, Some((to, node)));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(parent(path), Some(path), None);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        if self.names.get(path) != Some(&Node::Dir) {
            return Err(not_found(path));
        }
        if self.below(path).next().is_some() {
            return Err(io::Error::new(ErrorKind::DirectoryNotEmpty, "not empty"));
        }
        self.change(parent(path), Some(path), None);
        Ok(())
    }

    pub(super) fn create_dirs(&mut self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<_> = dir.ancestors().filter(|dir| !self.has_dir(dir)).collect();
        missing.reverse();
        if let Some(file) = missing.iter().find(|path| self.names.contains_key(**path)) {
            let why = format!("{} is a file", file.display());
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
        for dir in missing {
            self.change(parent(dir), None, Some((dir, Node::Dir)));
        }
        Ok(())
    }

    /// Everything below a folder, by name.
    fn below<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a Path, Node)> {
        let from = (std::ops::Bound::Excluded(dir), std::ops::Bound::Unbounded);
        let after = self.names.range::<Path, _>(from).map(|(path, node)| (&**path, *node));
        after.take_while(move |(path, _)| path.starts_with(dir))
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        if !self.has_dir(dir) {
            return Err(not_found(dir));
        }
        let inside = self.below(dir).filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.filter_map(|(path, node)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(DirEntry { name, is_dir: node == Node::Dir })
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
        if !self.has_dir(dir) {
            return Err(not_found(dir));
        }
        if !self.changes.iter().any(|change| change.dir == dir) {
            return Ok(());
        }
        let names = Arc::make_mut(&mut self.durable_names);
        let mut left: Vec<NameChange> = Vec::new();
        for change in std::mem::take(&mut self.changes).iter() {
            if change.dir != dir || !reaches(change) {
                left.push(change.clone());
                continue;
            }
            change.apply(names);
            if let Some((from, to)) = change.renamed_dir() {
                // What is not durable in the folder goes with it.
                left.iter_mut().for_each(|earlier| earlier.follow(from, to));
            }
        }
        self.changes = Arc::new(left);
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
            let dirs: BTreeSet<Arc<Path>> =
                names.iter().filter(|(_, node)| **node == Node::Dir).map(|(path, _)| path.clone()).collect();
            let is_dir = |dir: &Path| dir.parent().is_none() || dirs.contains(dir);
            let keeps =
                |path: &Path| path.ancestors().skip(1).all(|dir| dir.as_os_str().is_empty() || is_dir(dir));
            names.retain(|path, _| keeps(path));
        }
        let mut after = Disk {
            durable_names: Arc::clone(&names),
            names,
            next_inode: self.next_inode,
            capacity_bytes: self.capacity_bytes,
            ..Disk::default()
        };
        let mut inodes: BTreeMap<InodeNo, Entry> = BTreeMap::new();
        for (path, node) in after.names.iter() {
            if let Node::File(number) = node {
                let inode = || Arc::clone(&self.inodes.get(number).expect("a file with a name").inode);
                let name = Arc::clone(path);
                let entry = inodes.entry(*number).or_insert_with(|| Entry { inode: inode(), links: 0, name });
                entry.links += 1;
            }
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
        let pending = self.changes.iter().filter_map(|change| change.insert.as_ref().map(|(_, node)| node));
        let seen = self.names.values().chain(self.durable_names.values()).chain(pending);
        let seen: BTreeSet<InodeNo> =
            seen.filter_map(|node| if let Node::File(inode) = node { Some(*inode) } else { None }).collect();
        if seen.len() < self.inodes.len() {
            Arc::make_mut(&mut self.inodes).retain(|number, _| seen.contains(number));
        }
        self
    }
}
