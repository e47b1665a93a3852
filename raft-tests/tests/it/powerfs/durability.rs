//! What a power cut leaves, held to models that know nothing of how the file system works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use raft_tests::powerfs::{Cut, Lost, Model, Torn};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::skipped;
use super::support::{Powered, sync};

const SEEDS: u64 = 300;
const OPERATIONS: usize = 60;
const DIRECTORIES: [&str; 3] = ["", "one", "two"];
const PAGE: usize = 4096;

/// A directory, one of [`DIRECTORIES`], and a name in it.
type Place = (usize, u8);

/// A file: every state it had since its last sync, that one first.
#[derive(Clone, Debug)]
struct Content {
    states: Vec<Vec<u8>>,
}

/// One change of names, with the places that it sets.
#[derive(Clone, Debug)]
struct Change {
    sets: Vec<(Place, Option<usize>)>,
    durable: bool,
}

/// What was done, and so what must and what may be there after a cut.
#[derive(Default)]
struct History {
    files: Vec<Content>,
    /// In order, from an empty file system. Never forgotten.
    changes: Vec<Change>,
}

impl History {
    fn replay<'a>(changes: impl Iterator<Item = &'a Change>) -> BTreeMap<Place, usize> {
        let mut names = BTreeMap::new();
        for (place, file) in changes.flat_map(|change| &change.sets) {
            match file {
                Some(file) => names.insert(*place, *file),
                None => names.remove(place),
            };
        }
        names
    }

    fn now(&self) -> BTreeMap<Place, usize> {
        Self::replay(self.changes.iter())
    }

    fn durable(&self) -> BTreeMap<Place, usize> {
        Self::replay(self.changes.iter().filter(|change| change.durable))
    }

    fn change(&mut self, sets: &[(Place, Option<usize>)]) {
        self.changes.push(Change { sets: sets.to_vec(), durable: false });
    }

    fn synced_directory(&mut self, directory: usize) {
        for change in &mut self.changes {
            change.durable |= change.sets.iter().any(|((at, _), _)| *at == directory);
        }
        // What they build on, until nothing more is found: an earlier change of the same place.
        loop {
            let later: BTreeSet<(usize, Place)> = (self.changes.iter().enumerate())
                .filter(|(_, change)| change.durable)
                .flat_map(|(number, change)| change.sets.iter().map(move |(place, _)| (number, *place)))
                .collect();
            let mut found = false;
            for (number, change) in self.changes.iter_mut().enumerate().filter(|(_, change)| !change.durable) {
                let needed = |(place, _): &(Place, _)| later.iter().any(|(then, at)| *then > number && at == place);
                change.durable = change.sets.iter().any(needed);
                found |= change.durable;
            }
            if !found {
                return;
            }
        }
    }
}

impl Content {
    fn newest(&self) -> &Vec<u8> {
        self.states.last().unwrap()
    }

    /// Whether a cut may leave this content: each page as it was in one of the states, a size that lies between.
    fn may_leave(&self, found: &[u8]) -> bool {
        let longest = self.states.iter().map(Vec::len).max().unwrap();
        let shortest = self.states.iter().map(Vec::len).min().unwrap();
        (shortest..=longest).contains(&found.len()) && is_made_of(&self.states.iter().collect::<Vec<_>>(), found)
    }

    /// Whether some page is as it was neither at the last sync nor last.
    fn is_from_between(&self, found: &[u8]) -> bool {
        self.may_leave(found) && !is_made_of(&[&self.states[0], self.newest()], found)
    }
}

/// Whether each page is that of one of the states, as if zeros followed each.
fn is_made_of(states: &[&Vec<u8>], found: &[u8]) -> bool {
    found.chunks(PAGE).enumerate().all(|(number, page)| {
        states.iter().any(|state| {
            let (start, end) = ((number * PAGE).min(state.len()), (number * PAGE + page.len()).min(state.len()));
            let (bytes, rest) = page.split_at(end - start);
            bytes == &state[start..end] && rest.iter().all(|byte| *byte == 0)
        })
    })
}

/// Does random things on the mount, and keeps their history.
fn work(powered: &Powered, rng: &mut StdRng) -> History {
    let mut history = History::default();
    for _ in 0..OPERATIONS {
        let place = (rng.random_range(0..DIRECTORIES.len()), rng.random_range(0..4));
        let other = (rng.random_range(0..DIRECTORIES.len()), rng.random_range(0..4));
        let names = history.now();
        let there = names.get(&place).copied();
        match (rng.random_range(0..12), there) {
            (0..=1, None) => {
                File::create_new(path(powered, place)).unwrap();
                history.files.push(Content { states: vec![Vec::new()] });
                let file = history.files.len() - 1;
                history.change(&[(place, Some(file))]);
            }
            (0..=4, Some(file)) => {
                let state = history.files[file].newest().clone();
                let offset = [0, 10, 4000, 4096, 10_000, state.len(), state.len()][rng.random_range(0..7)];
                // No zeros: they would look like what never was.
                let bytes = vec![rng.random_range(1..=255); [1, 100, 4096, 9000][rng.random_range(0..4)]];
                let mut state = state;
                state.resize(state.len().max(offset + bytes.len()), 0);
                state[offset..offset + bytes.len()].copy_from_slice(&bytes);
                open(powered, place).write_all_at(&bytes, offset as u64).unwrap();
                // The page cache changes page by page: a write over several pages has states between.
                let mut between = history.files[file].newest().clone();
                let mut at = offset;
                while at < offset + bytes.len() {
                    let end = (offset + bytes.len()).min((at / PAGE + 1) * PAGE);
                    between.resize(between.len().max(end), 0);
                    between[at..end].copy_from_slice(&state[at..end]);
                    at = end;
                    history.files[file].states.push(between.clone());
                }
            }
            (5, Some(file)) => {
                let mut state = history.files[file].newest().clone();
                let size = [0, 1, 5000, 20_000][rng.random_range(0..4)];
                state.resize(size, 0);
                open(powered, place).set_len(size as u64).unwrap();
                history.files[file].states.push(state);
            }
            (6..=7, Some(file)) => {
                let handle = open(powered, place);
                if rng.random_bool(0.5) {
                    handle.sync_all().unwrap()
                } else {
                    handle.sync_data().unwrap()
                }
                let newest = history.files[file].newest().clone();
                history.files[file] = Content { states: vec![newest] };
            }
            (8, Some(file)) if place != other && names.get(&other) != Some(&file) => {
                fs::rename(path(powered, place), path(powered, other)).unwrap();
                history.change(&[(place, None), (other, Some(file))]);
            }
            (9, Some(file)) if !names.contains_key(&other) => {
                fs::hard_link(path(powered, place), path(powered, other)).unwrap();
                history.change(&[(other, Some(file))]);
            }
            (10, Some(_)) => {
                fs::remove_file(path(powered, place)).unwrap();
                history.change(&[(place, None)]);
            }
            (11, _) => {
                sync(&powered.path(DIRECTORIES[place.0]));
                history.synced_directory(place.0);
            }
            _ => {}
        }
    }
    history
}

fn path(powered: &Powered, (directory, name): Place) -> PathBuf {
    powered.path(DIRECTORIES[directory]).join(format!("file-{name}"))
}

fn open(powered: &Powered, place: Place) -> File {
    OpenOptions::new().write(true).open(path(powered, place)).unwrap()
}

/// What is there, by place.
fn found(powered: &Powered) -> BTreeMap<Place, Vec<u8>> {
    let mut found = BTreeMap::new();
    for (number, directory) in DIRECTORIES.iter().enumerate() {
        for entry in fs::read_dir(powered.path(directory)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if let Some(name) = name.strip_prefix("file-") {
                found.insert((number, name.parse().unwrap()), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// An empty file system with the directories in it, durable.
fn prepare(powered: &Powered) {
    for directory in DIRECTORIES {
        fs::create_dir_all(powered.path(directory)).unwrap();
        for entry in fs::read_dir(powered.path(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
    }
    for directory in DIRECTORIES {
        sync(&powered.path(directory));
    }
}

#[test]
fn a_clean_cut_keeps_what_was_synced_and_nothing_else() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let (mut kept, mut linked, mut pages, mut names) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        prepare(&powered);
        let history = work(&powered, &mut StdRng::seed_from_u64(seed));
        let before: BTreeMap<Place, Vec<u8>> =
            history.now().into_iter().map(|(place, file)| (place, history.files[file].newest().clone())).collect();
        assert_eq!(found(&powered), before, "seed {seed}: before the cut");
        let lost = powered.cut(Cut::clean());
        let expected: BTreeMap<Place, Vec<u8>> =
            history.durable().into_iter().map(|(place, file)| (place, history.files[file].states[0].clone())).collect();
        assert_eq!(found(&powered), expected, "seed {seed}");
        linked += check_links(&powered, &history.durable(), seed);
        kept += expected.values().filter(|content| !content.is_empty()).count();
        pages += lost.pages_dropped;
        names += lost.names_dropped;
        let stats = powered.stats();
        assert_eq!((lost.survived(), stats.unsynced_pages, stats.unsynced_names), (0, 0, 0));
    }
    println!("clean: {SEEDS} cuts kept {kept} files with content, dropped {pages} pages and {names} names");
    assert!(kept > 100 && linked > 20 && pages > 1000 && names > 1000, "too little was kept or lost to show anything");
}

#[test]
fn a_torn_cut_leaves_states_that_existed_page_by_page_and_name_by_name() {
    if skipped() {
        return;
    }
    let (mut total, mut from_between) = (Lost::default(), 0);
    for model in [Model::Strict, Model::Journal] {
        let powered = Powered::new(model);
        for seed in 0..SEEDS {
            prepare(&powered);
            let history = work(&powered, &mut StdRng::seed_from_u64(seed));
            let lost = powered.cut(Cut::torn(Torn::Pages, seed));
            from_between += check_torn(&history, &found(&powered), model, seed);
            total += lost;
        }
    }
    println!("torn: {total:?}, {from_between} files with a page from between two syncs");
    let Lost { pages_dropped, pages_survived, sizes_undone, truncations_undone, names_dropped, names_survived } = total;
    let pages = [pages_dropped, pages_survived, from_between];
    let counts = [pages, [sizes_undone, truncations_undone, names_dropped], [names_survived; 3]].concat();
    assert!(counts.iter().all(|count| *count > 20), "something was too rare to show anything: {total:?}");
}

/// The names of one file lead to one file, and it knows how many they are. Says how many have more than one.
fn check_links(powered: &Powered, names: &BTreeMap<Place, usize>, seed: u64) -> u64 {
    let mut inodes: BTreeMap<usize, BTreeSet<(u64, u64)>> = BTreeMap::new();
    for (place, file) in names {
        let meta = fs::metadata(path(powered, *place)).unwrap();
        inodes.entry(*file).or_default().insert((meta.ino(), meta.nlink()));
    }
    for (file, found) in &inodes {
        let links = names.values().filter(|other| *other == file).count() as u64;
        assert!(
            found.len() == 1 && found.iter().all(|(_, nlink)| *nlink == links),
            "seed {seed}: {found:?}, {links} names"
        );
    }
    names.len() as u64 - inodes.len() as u64
}

/// Says how many files have a page from between two syncs.
fn check_torn(history: &History, found: &BTreeMap<Place, Vec<u8>>, model: Model, seed: u64) -> u64 {
    let mut from_between = 0;
    let durable = history.durable();
    for directory in 0..DIRECTORIES.len() {
        for name in 0..4 {
            let place = (directory, name);
            // What this place holds durably, and what unsynced changes gave it.
            let mut may: Vec<Option<usize>> = vec![durable.get(&place).copied()];
            let unsynced = history.changes.iter().filter(|change| !change.durable);
            may.extend(unsynced.flat_map(|change| &change.sets).filter(|(at, _)| *at == place).map(|(_, file)| *file));
            let legal = match found.get(&place) {
                None => may.contains(&None),
                Some(content) => may.iter().flatten().any(|file| history.files[*file].may_leave(content)),
            };
            let size = found.get(&place).map(Vec::len);
            assert!(legal, "{model:?}, seed {seed}, {place:?}: {size:?} bytes, of files {may:?}");
            if let (Some(content), [Some(file)]) = (found.get(&place), may.as_slice()) {
                from_between += u64::from(history.files[*file].is_from_between(content));
            }
        }
    }
    from_between
}

#[test]
fn a_rename_over_a_file_leaves_the_old_one_or_the_new_one() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let (old, new) = (powered.path("CURRENT"), powered.path("CURRENT.new"));
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        write_synced(&old, b"old");
        sync(powered.mount.path());
        write_synced(&new, b"new");
        fs::rename(&new, &old).unwrap();
        powered.cut(if seed == 0 { Cut::clean() } else { Cut::torn(Torn::Pages, seed) });
        let content = fs::read_to_string(&old).unwrap();
        assert!(content == "old" || content == "new", "{content:?}");
        // The draft's own entry was never synced: it may be there beside the old one, never beside itself renamed.
        assert!(content == "old" || !new.exists(), "the file is there under both names");
        if seed == 0 {
            assert_eq!((content.as_str(), new.exists()), ("old", false));
        }
        seen.insert(content);
        let _not_there = fs::remove_file(&new);
    }
    assert_eq!(seen.len(), 2, "both happen");

    // After the directory's sync it is the new one, always.
    for seed in 0..10 {
        let content = format!("number {seed}");
        write_synced(&new, content.as_bytes());
        fs::rename(&new, &old).unwrap();
        sync(powered.mount.path());
        powered.cut(Cut::torn(Torn::Sectors, seed));
        assert_eq!(fs::read_to_string(&old).unwrap(), content);
    }

    // Without a sync of the file itself: an empty file under the new name is what is left.
    fs::write(&new, b"never synced").unwrap();
    fs::rename(&new, &old).unwrap();
    sync(powered.mount.path());
    powered.cut(Cut::clean());
    assert_eq!(fs::read(&old).unwrap(), b"");
}

fn write_synced(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn what_was_truncated_is_never_there_beside_what_came_after() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let path = powered.path("file");
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let old = [7; 3 * PAGE];
        write_synced(&path, &old);
        sync(powered.mount.path());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(&[9; PAGE], 2 * PAGE as u64).unwrap();
        powered.cut(Cut::torn(Torn::Pages, seed));
        let left = fs::read(&path).unwrap();
        let (is_old, is_new) = (left == old, !left.contains(&7));
        assert!(is_old || is_new, "seed {seed}: what was cut off is there beside what came after");
        seen.insert((is_old, left.len()));
    }
    assert_eq!(seen.len(), 3, "the old content, nothing, and the new size with or without its page: {seen:?}");
}

#[test]
fn two_names_of_one_file_are_one_file_after_a_cut() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let (one, other) = (powered.path("one"), powered.path("other"));
    write_synced(&one, b"before");
    fs::hard_link(&one, &other).unwrap();
    sync(powered.mount.path());
    powered.cut(Cut::clean());
    assert_eq!(fs::metadata(&one).unwrap().nlink(), 2);
    write_synced(&one, b"after");
    assert_eq!(fs::read(&other).unwrap(), b"after");
    fs::remove_file(&one).unwrap();
    sync(powered.mount.path());
    powered.cut(Cut::clean());
    assert!(!one.exists());
    assert_eq!((fs::read(&other).unwrap(), fs::metadata(&other).unwrap().nlink()), (b"after".to_vec(), 1));
}

#[test]
fn a_new_file_needs_its_directory_synced_unless_there_is_a_journal() {
    if skipped() {
        return;
    }
    for (model, expected) in [(Model::Strict, false), (Model::Journal, true)] {
        let powered = Powered::new(model);
        fs::create_dir(powered.path("directory")).unwrap();
        write_synced(&powered.path("directory/file"), b"synced");
        powered.cut(Cut::clean());
        assert_eq!(powered.path("directory/file").exists(), expected, "{model:?}");
        // A synced directory that its own parent does not know is gone with all that is in it.
        fs::create_dir_all(powered.path("parent/child")).unwrap();
        write_synced(&powered.path("parent/child/file"), b"synced");
        sync(&powered.path("parent/child"));
        sync(&powered.path("parent"));
        powered.cut(Cut::clean());
        assert_eq!(powered.path("parent").exists(), expected, "{model:?}");
    }
    let powered = Powered::new(Model::Strict);
    fs::create_dir(powered.path("directory")).unwrap();
    write_synced(&powered.path("directory/file"), b"synced");
    // In any order: the child's entries are durable before there is a way to them.
    sync(&powered.path("directory"));
    sync(powered.mount.path());
    powered.cut(Cut::clean());
    assert_eq!(fs::read(powered.path("directory/file")).unwrap(), b"synced");
}

/// Which of ten files, made one after the other in two directories in turn, survive each of many cuts.
fn survivors(model: Model) -> Vec<Vec<usize>> {
    let powered = Powered::new(model);
    let path = |number: usize| powered.path(DIRECTORIES[1 + number % 2]).join(number.to_string());
    let survivors = |seed| {
        prepare(&powered);
        for number in 0..10 {
            File::create_new(path(number)).unwrap();
        }
        powered.cut(Cut::torn(Torn::Pages, seed));
        let left: Vec<usize> = (0..10).filter(|number| path(*number).exists()).collect();
        left.iter().for_each(|number| fs::remove_file(path(*number)).unwrap());
        left
    };
    (0..40).map(survivors).collect()
}

#[test]
fn with_a_journal_what_survives_is_a_prefix_else_any_subset() {
    if skipped() {
        return;
    }
    let is_prefix = |left: &Vec<usize>| left.iter().enumerate().all(|(place, number)| place == *number);
    let journal = survivors(Model::Journal);
    assert!(journal.iter().all(is_prefix), "{journal:?}");
    assert!(journal.iter().collect::<BTreeSet<_>>().len() > 3, "{journal:?}");
    assert!(!survivors(Model::Strict).iter().all(is_prefix), "any subset may survive");
}

#[test]
fn no_cut_takes_moved_directories_out_of_reach() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        fs::create_dir_all(powered.path("a/b")).unwrap();
        sync(&powered.path("a"));
        sync(powered.mount.path());
        // The second move without the first would put each below the other, and both out of reach.
        fs::rename(powered.path("a/b"), powered.path("b")).unwrap();
        fs::rename(powered.path("a"), powered.path("b/a")).unwrap();
        powered.cut(Cut::torn(Torn::Pages, seed));
        let left: Vec<PathBuf> = super::support::picture(powered.mount.path()).into_keys().collect();
        assert_eq!(left.len(), 2, "seed {seed}: {left:?}");
        fs::remove_dir_all(powered.path(left[0].to_str().unwrap())).unwrap();
        if left[1].components().count() == 1 {
            fs::remove_dir_all(powered.path(left[1].to_str().unwrap())).unwrap();
        }
        seen.insert(left);
    }
    assert_eq!(seen.len(), 3, "before, between and after: {seen:?}");
}

#[test]
fn handles_from_before_a_cut_fail_for_ever() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let path = powered.path("file");
    write_synced(&path, b"synced");
    sync(powered.mount.path());
    let mut old = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut cached = [0; 6];
    old.read_exact(&mut cached).unwrap();
    powered.off(Cut::clean());
    let eio = |result: std::io::Result<()>| {
        let error = result.expect_err("the power is off");
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
    };
    for resumed in [false, true] {
        if resumed {
            powered.resume();
        } else {
            eio(fs::read(&path).map(drop));
            eio(fs::read_dir(powered.mount.path()).map(drop));
            eio(fs::write(powered.path("other"), b"x"));
        }
        eio(old.write_all(b"more"));
        eio(old.sync_all());
        eio(old.read_at(&mut cached, 0).map(drop));
    }
    assert_eq!(fs::read(&path).unwrap(), b"synced");
}
