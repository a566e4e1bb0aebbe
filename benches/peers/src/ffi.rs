//! RocksDB and LevelDB through their C interfaces, and a system call that no crate has, made safe: the one file with `unsafe`.
//!
//! RocksDB's interface began as LevelDB's, so most of both is one [`Api`], a table of functions; [`Db`], [`Iter`] and
//! [`Batch`] work on either. Declared by hand from `rocksdb/c.h` (7.8) and `leveldb/c.h` (1.23): what is used, no more.
//!
//! Promises: pointers that C gives are freed once, after their last use; slices that C lends are seen only within a call.
#![allow(unsafe_code)] // C can't be called without

use std::ffi::{CStr, CString, c_char, c_double, c_int, c_long, c_uchar, c_uint, c_void};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr::null_mut;

use haypile_bench::error::{Error, Result};
use haypile_bench::target::Found;

/// Something of C's.
type Handle = *mut c_void;
/// Where C puts an error's text, to be freed.
type ErrorPlace = *mut *mut c_char;

macro_rules! c_functions {
    ($library:literal: $(fn $name:ident($($type:ty),*) $(-> $result:ty)?;)*) => {
        #[link(name = $library)]
        unsafe extern "C" {
            $(fn $name($(_: $type),*) $(-> $result)?;)*
        }
    };
}

/// The functions that both have.
macro_rules! both {
    ($library:literal, $api:ident: $close:ident $put:ident $delete:ident $write:ident $property:ident
        $iter:ident $iter_destroy:ident $valid:ident $first:ident $seek:ident $next:ident $key:ident $value:ident
        $iter_error:ident $batch:ident $batch_destroy:ident $batch_clear:ident $batch_put:ident
        $read_options:ident $read_options_destroy:ident $write_options:ident $write_options_destroy:ident
        $sync:ident $compact:ident $free:ident) => {
        c_functions! { $library:
            fn $close(Handle);
            fn $put(Handle, Handle, *const u8, usize, *const u8, usize, ErrorPlace);
            fn $delete(Handle, Handle, *const u8, usize, ErrorPlace);
            fn $write(Handle, Handle, Handle, ErrorPlace);
            fn $property(Handle, *const c_char) -> *mut c_char;
            fn $iter(Handle, Handle) -> Handle;
            fn $iter_destroy(Handle);
            fn $valid(Handle) -> c_uchar;
            fn $first(Handle);
            fn $seek(Handle, *const u8, usize);
            fn $next(Handle);
            fn $key(Handle, *mut usize) -> *const u8;
            fn $value(Handle, *mut usize) -> *const u8;
            fn $iter_error(Handle, ErrorPlace);
            fn $batch() -> Handle;
            fn $batch_destroy(Handle);
            fn $batch_clear(Handle);
            fn $batch_put(Handle, *const u8, usize, *const u8, usize);
            fn $read_options() -> Handle;
            fn $read_options_destroy(Handle);
            fn $write_options() -> Handle;
            fn $write_options_destroy(Handle);
            fn $sync(Handle, c_uchar);
            fn $compact(Handle, *const u8, usize, *const u8, usize);
            fn $free(*mut c_void);
        }

        static $api: Api = Api {
            close: $close,
            put: $put,
            delete: $delete,
            write: $write,
            property: $property,
            iter: $iter,
            iter_destroy: $iter_destroy,
            valid: $valid,
            first: $first,
            seek: $seek,
            next: $next,
            key: $key,
            value: $value,
            iter_error: $iter_error,
            batch: $batch,
            batch_destroy: $batch_destroy,
            batch_clear: $batch_clear,
            batch_put: $batch_put,
            read_options: $read_options,
            read_options_destroy: $read_options_destroy,
            write_options: $write_options,
            write_options_destroy: $write_options_destroy,
            sync: $sync,
            compact: $compact,
            free: $free,
        };
    };
}

struct Api {
    close: unsafe extern "C" fn(Handle),
    put: unsafe extern "C" fn(Handle, Handle, *const u8, usize, *const u8, usize, ErrorPlace),
    delete: unsafe extern "C" fn(Handle, Handle, *const u8, usize, ErrorPlace),
    write: unsafe extern "C" fn(Handle, Handle, Handle, ErrorPlace),
    property: unsafe extern "C" fn(Handle, *const c_char) -> *mut c_char,
    iter: unsafe extern "C" fn(Handle, Handle) -> Handle,
    iter_destroy: unsafe extern "C" fn(Handle),
    valid: unsafe extern "C" fn(Handle) -> c_uchar,
    first: unsafe extern "C" fn(Handle),
    seek: unsafe extern "C" fn(Handle, *const u8, usize),
    next: unsafe extern "C" fn(Handle),
    key: unsafe extern "C" fn(Handle, *mut usize) -> *const u8,
    value: unsafe extern "C" fn(Handle, *mut usize) -> *const u8,
    iter_error: unsafe extern "C" fn(Handle, ErrorPlace),
    batch: unsafe extern "C" fn() -> Handle,
    batch_destroy: unsafe extern "C" fn(Handle),
    batch_clear: unsafe extern "C" fn(Handle),
    batch_put: unsafe extern "C" fn(Handle, *const u8, usize, *const u8, usize),
    read_options: unsafe extern "C" fn() -> Handle,
    read_options_destroy: unsafe extern "C" fn(Handle),
    write_options: unsafe extern "C" fn() -> Handle,
    write_options_destroy: unsafe extern "C" fn(Handle),
    sync: unsafe extern "C" fn(Handle, c_uchar),
    compact: unsafe extern "C" fn(Handle, *const u8, usize, *const u8, usize),
    free: unsafe extern "C" fn(*mut c_void),
}

both! { "rocksdb", ROCKSDB: rocksdb_close rocksdb_put rocksdb_delete rocksdb_write rocksdb_property_value
rocksdb_create_iterator rocksdb_iter_destroy rocksdb_iter_valid rocksdb_iter_seek_to_first rocksdb_iter_seek
rocksdb_iter_next rocksdb_iter_key rocksdb_iter_value rocksdb_iter_get_error rocksdb_writebatch_create
rocksdb_writebatch_destroy rocksdb_writebatch_clear rocksdb_writebatch_put rocksdb_readoptions_create
rocksdb_readoptions_destroy rocksdb_writeoptions_create rocksdb_writeoptions_destroy rocksdb_writeoptions_set_sync
rocksdb_compact_range rocksdb_free }

both! { "leveldb", LEVELDB: leveldb_close leveldb_put leveldb_delete leveldb_write leveldb_property_value
leveldb_create_iterator leveldb_iter_destroy leveldb_iter_valid leveldb_iter_seek_to_first leveldb_iter_seek
leveldb_iter_next leveldb_iter_key leveldb_iter_value leveldb_iter_get_error leveldb_writebatch_create
leveldb_writebatch_destroy leveldb_writebatch_clear leveldb_writebatch_put leveldb_readoptions_create
leveldb_readoptions_destroy leveldb_writeoptions_create leveldb_writeoptions_destroy leveldb_writeoptions_set_sync
leveldb_compact_range leveldb_free }

c_functions! { "rocksdb":
    fn rocksdb_open_column_families(
        Handle, *const c_char, c_int, *const *const c_char, *const Handle, *mut Handle, ErrorPlace) -> Handle;
    fn rocksdb_column_family_handle_destroy(Handle);
    fn rocksdb_get_pinned(Handle, Handle, *const u8, usize, ErrorPlace) -> Handle;
    fn rocksdb_pinnableslice_value(Handle, *mut usize) -> *const u8;
    fn rocksdb_pinnableslice_destroy(Handle);
    fn rocksdb_batched_multi_get_cf(
        Handle, Handle, Handle, usize, *const *const u8, *const usize, *mut Handle, *mut *mut c_char, bool);
    fn rocksdb_flushoptions_create() -> Handle;
    fn rocksdb_flushoptions_destroy(Handle);
    fn rocksdb_flush(Handle, Handle, ErrorPlace);
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_destroy(Handle);
    fn rocksdb_options_set_create_if_missing(Handle, c_uchar);
    fn rocksdb_options_set_write_buffer_size(Handle, usize);
    fn rocksdb_options_set_max_write_buffer_number(Handle, c_int);
    fn rocksdb_options_increase_parallelism(Handle, c_int);
    fn rocksdb_options_set_compression(Handle, c_int);
    fn rocksdb_options_set_level_compaction_dynamic_level_bytes(Handle, c_uchar);
    fn rocksdb_options_set_max_bytes_for_level_base(Handle, u64);
    fn rocksdb_options_set_target_file_size_base(Handle, u64);
    fn rocksdb_options_set_block_based_table_factory(Handle, Handle);
    fn rocksdb_options_enable_statistics(Handle);
    fn rocksdb_options_statistics_get_string(Handle) -> *mut c_char;
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_destroy(Handle);
    fn rocksdb_block_based_options_set_block_size(Handle, usize);
    fn rocksdb_block_based_options_set_block_cache(Handle, Handle);
    fn rocksdb_block_based_options_set_filter_policy(Handle, Handle);
    fn rocksdb_block_based_options_set_format_version(Handle, c_int);
    fn rocksdb_block_based_options_set_data_block_index_type(Handle, c_int);
    fn rocksdb_filterpolicy_create_bloom_full(c_double) -> Handle;
    fn rocksdb_cache_create_lru(usize) -> Handle;
    fn rocksdb_cache_destroy(Handle);
}

c_functions! { "leveldb":
    fn leveldb_open(Handle, *const c_char, ErrorPlace) -> Handle;
    fn leveldb_get(Handle, Handle, *const u8, usize, *mut usize, ErrorPlace) -> *mut u8;
    fn leveldb_major_version() -> c_int;
    fn leveldb_minor_version() -> c_int;
    fn leveldb_options_create() -> Handle;
    fn leveldb_options_destroy(Handle);
    fn leveldb_options_set_create_if_missing(Handle, c_uchar);
    fn leveldb_options_set_write_buffer_size(Handle, usize);
    fn leveldb_options_set_block_size(Handle, usize);
    fn leveldb_options_set_compression(Handle, c_int);
    fn leveldb_options_set_cache(Handle, Handle);
    fn leveldb_options_set_filter_policy(Handle, Handle);
    fn leveldb_options_set_max_file_size(Handle, usize);
    fn leveldb_cache_create_lru(usize) -> Handle;
    fn leveldb_cache_destroy(Handle);
    fn leveldb_filterpolicy_create_bloom(c_int) -> Handle;
    fn leveldb_filterpolicy_destroy(Handle);
}

const ROCKSDB_LZ4: c_int = 4;
const ROCKSDB_NO_COMPRESSION: c_int = 0;
const ROCKSDB_INDEX_BINARY_AND_HASH: c_int = 1;
const LEVELDB_SNAPPY: c_int = 1;
const LEVELDB_NO_COMPRESSION: c_int = 0;
const BLOOM_BITS: c_int = 10;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a write buffer, of which there are two.
    pub buffer_bytes: usize,
    /// Bytes of the block cache.
    pub cache_bytes: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Whether blocks are compressed: RocksDB by LZ4, LevelDB by Snappy.
    pub compress: bool,
    /// RocksDB: threads for flushes and compactions.
    pub threads: c_int,
    /// RocksDB: a hash index within each block.
    pub hash_index: bool,
    /// RocksDB: bytes of the first level that is compacted by size.
    pub level_bytes: u64,
    /// RocksDB: count hits and misses; it costs time.
    pub statistics: bool,
    /// Bytes of a file at most, about.
    pub file_bytes: usize,
}

/// An open store. Any thread may use it, as C's documents say.
pub struct Db {
    api: &'static Api,
    db: Handle,
    read: Handle,
    write: Handle,
    write_synced: Handle,
    rocksdb: Option<RocksDbOnly>,
    /// What the store uses while it is open, and how it is freed after.
    after: Vec<(Handle, unsafe extern "C" fn(Handle))>,
}

struct RocksDbOnly {
    options: Handle,
    family: Handle,
}

// SAFETY: the handles lead to objects of which C's documents say that any thread may use them at the same time; the
// options are not changed after opening.
unsafe impl Send for Db {}
// SAFETY: as above.
unsafe impl Sync for Db {}

/// Runs a function with a place for its error.
fn checked<T>(api: &Api, doing: &'static str, call: impl FnOnce(ErrorPlace) -> T) -> Result<T> {
    let mut error: *mut c_char = null_mut();
    let value = call(&raw mut error);
    match take_text(api, error) {
        None => Ok(value),
        Some(why) => Err(Error::target(doing, why)),
    }
}

/// A text that C gave away.
fn take_text(api: &Api, text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: C gives a text that ends with 0, and gives it away: it is freed here, once.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        (api.free)(text.cast());
        Some(owned)
    }
}

fn c_path(dir: &Path) -> Result<CString> {
    CString::new(dir.as_os_str().as_encoded_bytes()).map_err(|why| Error::file(dir, why))
}

impl Db {
    /// Opens or makes a RocksDB.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn rocksdb(dir: &Path, settings: &Settings) -> Result<Db> {
        let path = c_path(dir)?;
        let api = &ROCKSDB;
        // SAFETY: each object is made before it is used, and freed after the store that uses it, except the filter policy,
        // which the table's options own from then on. The arrays have the one element that is told of.
        unsafe {
            let cache = rocksdb_cache_create_lru(settings.cache_bytes);
            let table = rocksdb_block_based_options_create();
            rocksdb_block_based_options_set_block_cache(table, cache);
            rocksdb_block_based_options_set_block_size(table, settings.block_bytes);
            let filter = rocksdb_filterpolicy_create_bloom_full(c_double::from(BLOOM_BITS));
            rocksdb_block_based_options_set_filter_policy(table, filter);
            rocksdb_block_based_options_set_format_version(table, 5);
            if settings.hash_index {
                rocksdb_block_based_options_set_data_block_index_type(table, ROCKSDB_INDEX_BINARY_AND_HASH);
            }
            let options = rocksdb_options_create();
            rocksdb_options_set_block_based_table_factory(options, table);
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_increase_parallelism(options, settings.threads);
            rocksdb_options_set_write_buffer_size(options, settings.buffer_bytes);
            rocksdb_options_set_max_write_buffer_number(options, 2);
            rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
            rocksdb_options_set_max_bytes_for_level_base(options, settings.level_bytes);
            rocksdb_options_set_target_file_size_base(options, settings.file_bytes as u64);
            let compression = if settings.compress { ROCKSDB_LZ4 } else { ROCKSDB_NO_COMPRESSION };
            rocksdb_options_set_compression(options, compression);
            if settings.statistics {
                rocksdb_options_enable_statistics(options);
            }
            let after: Vec<(Handle, unsafe extern "C" fn(Handle))> = vec![
                (options, rocksdb_options_destroy),
                (table, rocksdb_block_based_options_destroy),
                (cache, rocksdb_cache_destroy),
            ];
            let name: *const c_char = c"default".as_ptr();
            let mut family: Handle = null_mut();
            let opened = checked(api, "opening RocksDB", |error| {
                let (names, all) = (&raw const name, &raw const options);
                rocksdb_open_column_families(options, path.as_ptr(), 1, names, all, &raw mut family, error)
            });
            Db::finish(api, opened, Some(RocksDbOnly { options, family }), after)
        }
    }

    /// Opens or makes a LevelDB.
    ///
    /// # Errors
    /// What LevelDB says.
    pub fn leveldb(dir: &Path, settings: &Settings) -> Result<Db> {
        let path = c_path(dir)?;
        let api = &LEVELDB;
        // SAFETY: each object is made before it is used, and freed after the store that uses it.
        unsafe {
            let cache = leveldb_cache_create_lru(settings.cache_bytes);
            let filter = leveldb_filterpolicy_create_bloom(BLOOM_BITS);
            let options = leveldb_options_create();
            leveldb_options_set_create_if_missing(options, 1);
            leveldb_options_set_write_buffer_size(options, settings.buffer_bytes);
            leveldb_options_set_block_size(options, settings.block_bytes);
            leveldb_options_set_max_file_size(options, settings.file_bytes);
            let compression = if settings.compress { LEVELDB_SNAPPY } else { LEVELDB_NO_COMPRESSION };
            leveldb_options_set_compression(options, compression);
            leveldb_options_set_cache(options, cache);
            leveldb_options_set_filter_policy(options, filter);
            let after: Vec<(Handle, unsafe extern "C" fn(Handle))> = vec![
                (options, leveldb_options_destroy),
                (cache, leveldb_cache_destroy),
                (filter, leveldb_filterpolicy_destroy),
            ];
            let opened = checked(api, "opening LevelDB", |error| leveldb_open(options, path.as_ptr(), error));
            Db::finish(api, opened, None, after)
        }
    }

    /// # Safety
    /// What `opened` holds is a store that was just opened with this interface; `after` is freed by the functions in it.
    unsafe fn finish(
        api: &'static Api,
        opened: Result<Handle>,
        rocksdb: Option<RocksDbOnly>,
        after: Vec<(Handle, unsafe extern "C" fn(Handle))>,
    ) -> Result<Db> {
        // SAFETY: making options has no precondition; if there is no store, nothing uses what is freed.
        unsafe {
            let db = match opened {
                Ok(db) => db,
                Err(error) => {
                    after.into_iter().for_each(|(handle, free)| free(handle));
                    return Err(error);
                }
            };
            let write_synced = (api.write_options)();
            (api.sync)(write_synced, 1);
            Ok(Db {
                api,
                db,
                read: (api.read_options)(),
                write: (api.write_options)(),
                write_synced,
                rocksdb,
                after,
            })
        }
    }

    /// LevelDB's version.
    #[must_use]
    pub fn leveldb_version() -> String {
        // SAFETY: no precondition.
        unsafe { format!("{}.{}", leveldb_major_version(), leveldb_minor_version()) }
    }

    fn write_options(&self, synced: bool) -> Handle {
        if synced { self.write_synced } else { self.write }
    }

    /// Puts a value at a key.
    ///
    /// # Errors
    /// What the store says.
    pub fn put(&self, key: &[u8], value: &[u8], synced: bool) -> Result<()> {
        let options = self.write_options(synced);
        // SAFETY: the pointers are those of slices, with their lengths; C copies what it keeps.
        checked(self.api, "putting", |error| unsafe {
            (self.api.put)(self.db, options, key.as_ptr(), key.len(), value.as_ptr(), value.len(), error);
        })
    }

    /// Removes a key.
    ///
    /// # Errors
    /// What the store says.
    pub fn delete(&self, key: &[u8], synced: bool) -> Result<()> {
        let options = self.write_options(synced);
        // SAFETY: as in `put`.
        checked(self.api, "deleting", |error| unsafe {
            (self.api.delete)(self.db, options, key.as_ptr(), key.len(), error);
        })
    }

    /// Writes a batch, all of it or nothing.
    ///
    /// # Errors
    /// What the store says.
    pub fn write(&self, batch: &Batch, synced: bool) -> Result<()> {
        assert!(std::ptr::eq(self.api, batch.api), "a batch of the same library");
        let options = self.write_options(synced);
        // SAFETY: the batch is of the same library and stays borrowed.
        checked(self.api, "writing a batch", |error| unsafe {
            (self.api.write)(self.db, options, batch.batch, error);
        })
    }

    /// The length of the value at a key, which lies in memory now: RocksDB lends it, LevelDB copies it.
    ///
    /// # Errors
    /// What the store says.
    pub fn get(&self, key: &[u8]) -> Result<Found> {
        let mut length = 0;
        // SAFETY: key as in `put`; what C gives is freed once, after the length was taken.
        unsafe {
            if self.rocksdb.is_some() {
                let pinned = checked(self.api, "reading", |error| {
                    rocksdb_get_pinned(self.db, self.read, key.as_ptr(), key.len(), error)
                })?;
                return Ok(take_pinned(pinned));
            }
            let value = checked(self.api, "reading", |error| {
                leveldb_get(self.db, self.read, key.as_ptr(), key.len(), &raw mut length, error)
            })?;
            if value.is_null() {
                return Ok(Found::NOTHING);
            }
            std::hint::black_box(value);
            (self.api.free)(value.cast());
        }
        Ok(Found::one(length))
    }

    /// Reads many keys in one call; `None` if the store has no such call.
    ///
    /// # Errors
    /// What the store says.
    pub fn multi_get<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
        room: &mut MultiGet,
    ) -> Result<Option<Found>> {
        let Some(RocksDbOnly { family, .. }) = self.rocksdb else { return Ok(None) };
        room.keys.clear();
        room.lengths.clear();
        for key in keys {
            room.keys.push(key.as_ptr());
            room.lengths.push(key.len());
        }
        let count = room.keys.len();
        room.values.clear();
        room.values.resize(count, null_mut());
        room.errors.clear();
        room.errors.resize(count, null_mut());
        let (keys, lengths) = (room.keys.as_ptr(), room.lengths.as_ptr());
        // SAFETY: the keys live as long as 'k; all four arrays have `count` elements.
        unsafe {
            rocksdb_batched_multi_get_cf(
                self.db,
                self.read,
                family,
                count,
                keys,
                lengths,
                room.values.as_mut_ptr(),
                room.errors.as_mut_ptr(),
                false,
            );
        }
        let mut all = Found::NOTHING;
        for &pinned in &room.values {
            // SAFETY: C gave it away, it is looked at once.
            let found = unsafe { take_pinned(pinned) };
            all.entries += found.entries;
            all.bytes += found.bytes;
        }
        let errors = room.errors.iter().filter_map(|&error| take_text(self.api, error));
        match errors.reduce(|first, _| first) {
            None => Ok(Some(all)),
            Some(why) => Err(Error::target("reading many", why)),
        }
    }

    /// An iterator over the store as it is now, that is nowhere yet.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        // SAFETY: the iterator borrows the store, so that it is destroyed before.
        Iter {
            api: self.api,
            iter: unsafe { (self.api.iter)(self.db, self.read) },
            taken: false,
            store: PhantomData,
        }
    }

    /// A batch that is empty.
    #[must_use]
    pub fn batch(&self) -> Batch {
        // SAFETY: no precondition.
        Batch { api: self.api, batch: unsafe { (self.api.batch)() } }
    }

    /// What the store says of itself under a name; `None` if it does not know it.
    #[must_use]
    pub fn property(&self, name: &CStr) -> Option<String> {
        // SAFETY: the name ends with 0.
        take_text(self.api, unsafe { (self.api.property)(self.db, name.as_ptr()) })
    }

    /// RocksDB's counters, if they were asked for.
    #[must_use]
    pub fn statistics(&self) -> Option<String> {
        // SAFETY: the options live as long as the store.
        let text = unsafe { rocksdb_options_statistics_get_string(self.rocksdb.as_ref()?.options) };
        take_text(self.api, text)
    }

    /// Brings what is in memory into files, and waits for that.
    ///
    /// # Errors
    /// What the store says.
    pub fn flush(&self) -> Result<()> {
        // SAFETY: the options are made before and freed after. A range above all keys: LevelDB writes its memory, and
        // has nothing to compact.
        unsafe {
            if self.rocksdb.is_none() {
                let above = [u8::MAX; 8];
                let (start, length) = (above.as_ptr(), above.len());
                (self.api.compact)(self.db, start, length, start, length);
                return Ok(());
            }
            let options = rocksdb_flushoptions_create();
            let done = checked(self.api, "flushing", |error| rocksdb_flush(self.db, options, error));
            rocksdb_flushoptions_destroy(options);
            done
        }
    }
}

/// # Safety
/// Either null or a pinned slice that RocksDB has given away, which is not looked at again.
unsafe fn take_pinned(pinned: Handle) -> Found {
    if pinned.is_null() {
        return Found::NOTHING;
    }
    let mut length = 0;
    // SAFETY: as above.
    unsafe {
        std::hint::black_box(rocksdb_pinnableslice_value(pinned, &raw mut length));
        rocksdb_pinnableslice_destroy(pinned);
    }
    Found::one(length)
}

impl Drop for Db {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the store any more; each is freed once, the store before what it uses.
        unsafe {
            (self.api.read_options_destroy)(self.read);
            (self.api.write_options_destroy)(self.write);
            (self.api.write_options_destroy)(self.write_synced);
            if let Some(rocksdb) = &self.rocksdb {
                rocksdb_column_family_handle_destroy(rocksdb.family);
            }
            (self.api.close)(self.db);
            self.after.iter().for_each(|&(handle, free)| free(handle));
        }
    }
}

/// Room for [`Db::multi_get`], used again.
#[derive(Debug, Default)]
pub struct MultiGet {
    keys: Vec<*const u8>,
    lengths: Vec<usize>,
    values: Vec<Handle>,
    errors: Vec<*mut c_char>,
}

/// Puts that are written together.
pub struct Batch {
    api: &'static Api,
    batch: Handle,
}

impl Batch {
    /// Empties it.
    pub fn clear(&mut self) {
        // SAFETY: it is ours alone.
        unsafe { (self.api.batch_clear)(self.batch) }
    }

    /// Adds a put.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        // SAFETY: it is ours alone; C copies key and value.
        unsafe { (self.api.batch_put)(self.batch, key.as_ptr(), key.len(), value.as_ptr(), value.len()) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { (self.api.batch_destroy)(self.batch) }
    }
}

/// A place in the order of keys.
pub struct Iter<'d> {
    api: &'static Api,
    iter: Handle,
    /// Whether the entry here was taken.
    taken: bool,
    store: PhantomData<&'d Db>,
}

impl Iter<'_> {
    /// To the first key not below `from`; to the least with `None`.
    pub fn seek(&mut self, from: Option<&[u8]>) {
        self.taken = false;
        // SAFETY: the slice lives through the call.
        unsafe {
            match from {
                Some(key) => (self.api.seek)(self.iter, key.as_ptr(), key.len()),
                None => (self.api.first)(self.iter),
            }
        }
    }

    /// Bytes of key and value of the next entry, which lie in memory now; `None` at the end.
    ///
    /// # Errors
    /// What the store says.
    pub fn take(&mut self) -> Result<Option<usize>> {
        // SAFETY: next, key and value are called where the iterator is valid; slices are not looked at after it has gone on.
        unsafe {
            if std::mem::replace(&mut self.taken, true) {
                (self.api.next)(self.iter);
            }
            if (self.api.valid)(self.iter) == 0 {
                self.taken = false;
                return checked(self.api, "walking", |error| (self.api.iter_error)(self.iter, error))
                    .map(|()| None);
            }
            let (mut key, mut value) = (0, 0);
            std::hint::black_box((self.api.key)(self.iter, &raw mut key));
            std::hint::black_box((self.api.value)(self.iter, &raw mut value));
            Ok(Some(key + value))
        }
    }
}

impl Drop for Iter<'_> {
    fn drop(&mut self) {
        // SAFETY: it is freed once, while the store is open.
        unsafe { (self.api.iter_destroy)(self.iter) }
    }
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// The number of `cachestat`: it is newer than the tables that differ between processors.
const CACHESTAT: c_long = 451;
/// What the kernel counts in. Larger pages on another processor would only scale what is told.
const PAGE_BYTES: u64 = 4096;

/// How many bytes of a file, from `from` on (0 is all that follows), the kernel has cached.
///
/// # Errors
/// As the kernel says: one before Linux 6.5 can't tell.
pub fn cached_bytes(file: BorrowedFd<'_>, from: u64, bytes: u64) -> io::Result<u64> {
    // Where from and how many; then: cached, not written yet, being written, dropped, dropped lately.
    let (range, mut pages) = ([from, bytes], [0_u64; 5]);
    // SAFETY: both structures are of 64-bit numbers, as many as cachestat(2) has, and live longer than the call.
    let done =
        unsafe { syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0 as c_uint) };
    if done == 0 { Ok(pages[0] * PAGE_BYTES) } else { Err(io::Error::last_os_error()) }
}
