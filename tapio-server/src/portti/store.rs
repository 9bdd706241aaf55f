//! What was reported, on disk: the last forms of objects, and what is needed to go on from there.
//!
//! One transaction holds the forms, and the facts that were made of them. Facts are sent after it, and sent again by the next
//! run if this one ended before it knew that they had arrived. A fact is therefore neither lost nor made twice.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use redb::{Builder, Database, ReadableDatabase as _, TableDefinition, WriteTransaction};

use super::{form::Form, salt::Salt};

const FORMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("forms");
const NOTES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("notes");
/// The page cache.
const CACHE_BYTES: usize = 16 << 20;
/// The note with the layout of forms, and the layout that this program has: another number for every change of a form that
/// makes equal objects differ.
const LAYOUT: &str = "layout";
const LAYOUT_NOW: &[u8] = b"1";
/// The note with the salt.
const SALT: &str = "salt";

/// The file, and what is to be written to it.
pub(super) struct Store {
    database: Database,
    /// Forms that are not yet written; `None` for one that is gone.
    forms: BTreeMap<String, Option<Vec<u8>>>,
    /// Notes that are not yet written.
    notes: BTreeMap<String, Option<Vec<u8>>>,
}

impl Store {
    /// Opens the file of a directory, or makes it. A damaged file is renamed: what it had is reported anew.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join("portti.redb");
        let database = match make(&path) {
            Ok(database) => database,
            Err(redb::Error::DatabaseAlreadyOpen) => anyhow::bail!("{} is in use", path.display()),
            Err(redb::Error::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
            Err(error) => {
                let aside = path.with_extension("redb.damaged");
                tracing::warn!(%error, aside = %aside.display(), "portti: the state is damaged and was renamed");
                rename(&path, &aside)?;
                make(&path).with_context(|| format!("cannot make {}", path.display()))?
            }
        };
        let mut store = Self { database, forms: BTreeMap::new(), notes: BTreeMap::new() };
        if store.note(LAYOUT)?.as_deref() != Some(LAYOUT_NOW) {
            store.forget()?;
        }
        Ok(store)
    }

    /// Forgets all forms, because another version of this program wrote them: objects are reported as if for the first time,
    /// and not as if they were new. The salt stays.
    fn forget(&mut self) -> anyhow::Result<()> {
        let salt = self.note(SALT)?;
        let transaction = begin(&self.database)?;
        for table in [FORMS, NOTES] {
            transaction.delete_table(table)?;
            transaction.open_table(table)?;
        }
        transaction.commit()?;
        self.put_note(SALT.to_owned(), salt);
        self.put_note(LAYOUT.to_owned(), Some(LAYOUT_NOW.to_vec()));
        self.commit()
    }

    /// The salt of this installation, made on the first call.
    pub(super) fn salt(&mut self) -> anyhow::Result<Salt> {
        if let Some(bytes) = self.note(SALT)? {
            return Ok(Salt::of(&bytes));
        }
        let (salt, bytes) = Salt::random()?;
        self.notes.insert(SALT.to_owned(), Some(bytes));
        self.commit()?;
        Ok(salt)
    }

    /// The form of an object as it was reported.
    pub(super) fn form(&self, key: &str) -> anyhow::Result<Option<Form>> {
        let bytes = match self.forms.get(key) {
            Some(pending) => pending.clone(),
            None => self.read(FORMS, key)?,
        };
        // What cannot be read is as good as none.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Remembers the form of an object, or that it is gone.
    pub(super) fn put(&mut self, key: String, form: Option<&Form>) -> anyhow::Result<()> {
        let bytes = form.map(serde_json::to_vec).transpose().context("a form cannot be written")?;
        self.forms.insert(key, bytes);
        Ok(())
    }

    /// The keys that begin with this.
    pub(super) fn keys(&self, prefix: &str) -> anyhow::Result<Vec<String>> {
        let table = self.database.begin_read()?.open_table(FORMS)?;
        let mut keys = Vec::new();
        for entry in table.range(prefix..)? {
            let (key, _) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if !self.forms.contains_key(key.value()) {
                keys.push(key.value().to_owned());
            }
        }
        let pending = self.forms.iter().filter(|(key, form)| key.starts_with(prefix) && form.is_some());
        keys.extend(pending.map(|(key, _)| key.clone()));
        Ok(keys)
    }

    /// The next keys after one, in order, at most so many.
    pub(super) fn keys_after(&mut self, key: &str, max: usize) -> anyhow::Result<Vec<String>> {
        // Otherwise two sets would have to be merged.
        self.commit()?;
        let table = self.database.begin_read()?.open_table(FORMS)?;
        let later = table.range::<&str>((Bound::Excluded(key), Bound::Unbounded))?;
        later.take(max).map(|entry| Ok(entry?.0.value().to_owned())).collect()
    }

    /// A note.
    pub(super) fn note(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match self.notes.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.read(NOTES, key),
        }
    }

    /// Remembers a note, or that there is none any more.
    pub(super) fn put_note(&mut self, key: String, note: Option<Vec<u8>>) {
        self.notes.insert(key, note);
    }

    /// How much is to be written.
    pub(super) fn pending(&self) -> usize {
        self.forms.len() + self.notes.len()
    }

    /// Writes everything. It is on disk when this returns.
    pub(super) fn commit(&mut self) -> anyhow::Result<()> {
        if self.forms.is_empty() && self.notes.is_empty() {
            return Ok(());
        }
        let transaction = begin(&self.database)?;
        for (table, pending) in [(FORMS, &self.forms), (NOTES, &self.notes)] {
            let mut table = transaction.open_table(table)?;
            for (key, bytes) in pending {
                match bytes {
                    Some(bytes) => drop(table.insert(key.as_str(), bytes.as_slice())?),
                    None => drop(table.remove(key.as_str())?),
                }
            }
        }
        transaction.commit()?;
        self.forms.clear();
        self.notes.clear();
        Ok(())
    }

    fn read(&self, table: TableDefinition<'_, &str, &[u8]>, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let table = self.database.begin_read()?.open_table(table)?;
        Ok(table.get(key)?.map(|bytes| bytes.value().to_vec()))
    }
}

/// A transaction after which the file is usable at once, however large it is and whatever happens.
fn begin(database: &Database) -> anyhow::Result<WriteTransaction> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Opens or makes the file, with its tables.
fn make(path: &Path) -> Result<Database, redb::Error> {
    let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
    let transaction = database.begin_write()?;
    for table in [FORMS, NOTES] {
        transaction.open_table(table)?;
    }
    transaction.commit()?;
    Ok(database)
}

fn rename(path: &Path, aside: &PathBuf) -> anyhow::Result<()> {
    fs::rename(path, aside).with_context(|| format!("cannot rename {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(version: &str) -> Form {
        Form { version: version.to_owned(), ..Form::default() }
    }

    #[test]
    fn what_was_written_is_there_and_what_was_not_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let hash = {
            let mut store = Store::open(directory.path()).unwrap();
            for name in ["Pod/a/1", "Pod/a/2", "Node//n"] {
                store.put(name.to_owned(), Some(&form("1"))).unwrap();
            }
            assert_eq!(store.keys("Pod/").unwrap().len(), 2, "before it is written, too");
            store.commit().unwrap();
            store.put("Pod/a/1".to_owned(), None).unwrap();
            store.put("Pod/a/2".to_owned(), Some(&form("2"))).unwrap();
            assert_eq!(store.form("Pod/a/2").unwrap(), Some(form("2")));
            assert_eq!(store.keys("Pod/").unwrap(), ["Pod/a/2"]);
            store.salt().unwrap().hash("x")
        };
        let mut store = Store::open(directory.path()).unwrap();
        assert_eq!(store.salt().unwrap().hash("x"), hash);
        assert_eq!(store.keys("Pod/").unwrap(), ["Pod/a/2"], "the salt was written with them");
        assert_eq!(store.keys_after("", 5).unwrap(), ["Node//n", "Pod/a/2"]);
        assert_eq!(store.keys_after("", 1).unwrap(), ["Node//n"]);
        assert_eq!(store.keys_after("Node//n", 5).unwrap(), ["Pod/a/2"]);
        store.put("Pod/a/2".to_owned(), None).unwrap();
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.form("Pod/a/2").unwrap(), Some(form("2")));
        assert_eq!(store.form("Pod/a/1").unwrap(), None);
    }

    #[test]
    fn forms_of_another_layout_are_forgotten_and_the_salt_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        let hash = store.salt().unwrap().hash("x");
        store.put("Pod/a/1".to_owned(), Some(&form("1"))).unwrap();
        store.put_note("listed/Pod".to_owned(), Some(Vec::new()));
        store.put_note(LAYOUT.to_owned(), Some(b"0".to_vec()));
        store.commit().unwrap();
        drop(store);
        let mut store = Store::open(directory.path()).unwrap();
        assert_eq!(store.form("Pod/a/1").unwrap(), None);
        assert_eq!(store.note("listed/Pod").unwrap(), None);
        assert_eq!(store.salt().unwrap().hash("x"), hash);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("portti.redb"), vec![7; 10_000]).unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        store.salt().unwrap();
        assert!(directory.path().join("portti.redb.damaged").is_file());
    }
}
