//! Killed, refused and damaged at every place: the next plain run ends with the digests of a clean one.

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::SystemTime;

use crate::space::Space;
use world::{EDIT, World, files, planned_again, rich, tiny};

/// Calls `point` with every number below `end`, one on each core at once; the sum of what it says.
fn all_points(end: u64, point: impl Fn(u64) -> u64 + Sync) -> u64 {
    let (next, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    sum.fetch_add(point(number), Ordering::Relaxed);
                }
            });
        }
    });
    sum.into_inner()
}

/// Whether the binary was built with fault injection; prints the reason of a skipped test.
fn with_faults() -> bool {
    let built = cfg!(feature = "faults");
    if !built {
        eprintln!("skipped: built without `--features faults`");
    }
    built
}

fn faulty(space: &Space, fault: &str, jobs: &str) -> Output {
    let mut command = space.command(&["run", "w.yaml", "--quiet", "--jobs", jobs]);
    command.env("REFRAIN_FAULT", fault).output().unwrap()
}

/// How many steps and writes a run has.
fn counted(world: &World) -> (u64, u64) {
    let space = world.space();
    let output = faulty(&space, "count", "1");
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap();
    let numbers: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [steps, writes] = numbers[..] else { panic!("`{last}` counts nothing") };
    (steps, writes)
}

/// Kills a run before each of its steps and in the middle of each write; how many runs were killed.
fn kill_everywhere(name: &str, world: &World, jobs: &[&str]) -> u64 {
    let (steps, writes) = counted(world);
    let resumed = AtomicU64::new(0);
    let killed = |fault: String, jobs: &str| {
        let what = format!("{name} {fault} --jobs {jobs}");
        let space = world.space();
        let status = faulty(&space, &fault, jobs).status;
        // Which step comes when depends a little on the threads: the last may not be reached.
        assert!(status.signal() == Some(9) || status.code() == Some(0), "{what}: {status}");
        world.holds_nothing_half(&space, &what);
        let said = world.recovers(&space, &what);
        resumed.fetch_add(u64::from(said.stderr.contains("goes on after step")), Ordering::Relaxed);
        u64::from(status.signal() == Some(9))
    };
    let mut sum = 0;
    for jobs in jobs {
        sum += all_points(steps, |number| killed(format!("kill:{}", number + 1), jobs));
        sum += all_points(writes, |number| killed(format!("torn:{}", number + 1), jobs));
    }
    let resumed = resumed.into_inner();
    println!("{name}: {sum} kill points survived, of {steps} steps and {writes} writes in a run");
    println!("{name}: {resumed} trainings went on where they were killed");
    assert_eq!(resumed > 0, name == "training", "a state that is kept is used");
    sum
}

#[test]
fn a_run_that_is_killed_anywhere_is_completed() {
    if !with_faults() {
        return;
    }
    let killed = kill_everywhere("from nothing", &World::new(rich(), None), &["1", "3"])
        + kill_everywhere("after an edit", &World::new(rich(), Some(EDIT)), &["1"])
        + kill_everywhere("training", &World::new(tiny(), None), &["1"]);
    println!("{killed} kill points survived");
    assert!(killed >= 500, "{killed}");
}

/// Refuses each step of a run, alone and with all that come later; how many runs failed.
fn refuse_everywhere(name: &str, world: &World) -> u64 {
    let (steps, _) = counted(world);
    let refused = |fault: String, words: &str| {
        let what = format!("{name} {fault}");
        let space = world.space();
        let output = faulty(&space, &fault, "1");
        let said = String::from_utf8(output.stderr).unwrap();
        world.holds_nothing_half(&space, &what);
        match output.status.code() {
            // What can be done without: a plan that is kept, a state of a training, tidying up.
            Some(0) => {}
            Some(4) => {
                let place = |line: &str| line.contains("/.refrain") || line.contains("`w.lock`");
                let names_it = |line: &str| {
                    place(line)
                        && (line.contains(words) || line.contains("only a part of it was written"))
                };
                assert!(said.lines().any(names_it), "{what}: no file is named: {said}");
            }
            code => panic!("{what}: {code:?}: {said}"),
        }
        assert!(!said.contains("fault of refrain"), "{what}: {said}");
        world.recovers(&space, &what);
        u64::from(output.status.code() == Some(4))
    };
    let full = all_points(steps, |number| refused(format!("full:{}", number + 1), "No space left"));
    let broken =
        all_points(steps, |number| refused(format!("error:{}", number + 1), "Input/output error"));
    println!(
        "{name}: a full disk ended {full} runs, an error of the disk {broken}, of {steps} each"
    );
    full + broken
}

#[test]
fn a_disk_that_refuses_anything_is_named_and_costs_no_result() {
    if !with_faults() {
        return;
    }
    let refused = refuse_everywhere("from nothing", &World::new(rich(), None))
        + refuse_everywhere("after an edit", &World::new(rich(), Some(EDIT)))
        + refuse_everywhere("training", &World::new(tiny(), None));
    println!("{refused} refusals survived");
    assert!(refused >= 300, "{refused}");
}

/// Ways to damage a file.
const DAMAGES: [&str; 7] =
    ["emptied", "removed", "halved", "cut by a byte", "flipped 0", "flipped 1", "flipped 2"];

/// Damages a file as a fault of the disk would, and gives it the time of a file that was written.
fn damage(path: &Path, how: &str, seed: u64) {
    let mut bytes = fs::read(path).unwrap();
    match how {
        "emptied" => bytes.clear(),
        "removed" => return fs::remove_file(path).unwrap(),
        "halved" => bytes.truncate(bytes.len() / 2),
        "cut by a byte" => drop(bytes.pop()),
        flipped => {
            // Somewhere, but at the same place in each run of this test.
            let random = refrain_cache::Digest::of_bytes(format!("{flipped} {seed}").as_bytes());
            let random = u64::from_le_bytes(random.as_bytes()[..8].try_into().unwrap());
            let place = (random / 8) as usize % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << (random % 8);
            }
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().set_modified(SystemTime::now()).unwrap();
}

/// Damages every file of a finished cache in every way; how many damages the next run got over.
fn damage_everything(name: &str, world: &World) -> u64 {
    let count = files(&world.finished().path(".refrain")).len();
    let healed = |number: u64| {
        let space = world.finished();
        // Listed anew, because the name of a kept plan depends on the folder.
        let file = &files(&space.path(".refrain"))[number as usize / DAMAGES.len()];
        let how = DAMAGES[number as usize % DAMAGES.len()];
        let what = format!("{name}: {} {how}", file.display());
        damage(&space.path(".refrain").join(file), how, number);
        if file == Path::new("format") {
            // What says which layout the rest has is not guessed.
            let clear =
                |error: &String| error.contains("the cache `") || error.contains("is not a cache");
            assert!(planned_again(&space).as_ref().map_or_else(clear, |ran| *ran == 0), "{what}");
            return 1;
        }
        let said = world.heals(&space, &what);
        if let Ok(object) = file.strip_prefix("objects") {
            let object: Vec<_> = object.iter().take(2).collect();
            let object: String = object.join("/".as_ref()).into_string().unwrap();
            let named =
                said.stderr.lines().any(|line| line.contains(&format!("/objects/{object}`")));
            assert!(named, "{what}: it is not named: {}", said.stderr);
            let aside = how == "removed" || said.stderr.contains("it is set aside as `");
            assert!(aside, "{what}: where it is now is not said: {}", said.stderr);
        }
        1
    };
    let sum = all_points((count * DAMAGES.len()) as u64, healed);
    println!("{name}: {sum} damages of {count} files survived");
    sum
}

#[test]
fn a_cache_that_is_damaged_anywhere_is_healed() {
    let healed = damage_everything("rich", &World::new(rich(), None))
        + damage_everything("a model", &World::new(tiny(), None));
    println!("{healed} damages survived");
    assert!(healed >= 200, "{healed}");
}

/// The state of a training that was killed anywhere, damaged before the next run would take it up.
#[test]
fn a_state_that_is_damaged_is_not_taken_up() {
    if !with_faults() {
        return;
    }

    let world = World::new(tiny(), None);
    let (steps, _) = counted(&world);
    let damaged = all_points(steps, |number| {
        let what = format!(
            "killed before step {}, {}",
            number + 1,
            DAMAGES[number as usize % DAMAGES.len()]
        );
        let space = world.space();
        faulty(&space, &format!("kill:{}", number + 1), "1");
        let states = files(&space.path(".refrain/unfinished"));
        for state in &states {
            let path = space.path(".refrain/unfinished").join(state);
            damage(&path, DAMAGES[number as usize % DAMAGES.len()], number);
        }
        let said = world.recovers(&space, &what);
        assert!(
            states.is_empty() || !said.stderr.contains("goes on after step"),
            "{what}: {}",
            said.stderr
        );
        states.len() as u64
    });
    println!("{damaged} damaged states of trainings were left alone");
    assert!(damaged >= 50, "{damaged}");
}

/// What is made again meets the damaged object of the same name, which no record speaks of any more.
#[test]
fn a_damaged_object_that_no_record_names_is_not_taken_for_a_new_one() {
    let world = World::new(rich(), None);
    let space = world.finished();
    fs::remove_file(space.path(".refrain/records/records.log")).unwrap();
    let objects = space.path(".refrain/objects");
    for (number, object) in files(&objects).iter().enumerate() {
        damage(&objects.join(object), "flipped 0", number as u64);
    }
    world.heals(&space, "everything is damaged and no record left");
}

/// Killed while a damaged object is found, set aside, forgotten and made again.
#[test]
fn a_run_that_is_killed_while_it_heals_is_completed() {
    if !with_faults() {
        return;
    }
    let world = World::new(rich(), None);
    let objects = files(&world.finished().path(".refrain/objects"));
    let folder = objects.iter().position(|object| object.iter().count() == 3).unwrap();
    let file = objects.iter().position(|object| object.iter().count() == 2).unwrap();
    for object in [&objects[folder], &objects[file]] {
        let killed = all_points(50, |number| {
            let what = format!("{} kill:{}", object.display(), number + 1);
            let space = world.finished();
            damage(&space.path(".refrain/objects").join(object), "halved", number);
            let killed =
                faulty(&space, &format!("kill:{}", number + 1), "1").status.signal() == Some(9);
            world.heals(&space, &what);
            u64::from(killed)
        });
        println!("{}: {killed} kill points survived", object.display());
        assert!(killed >= 15, "{killed}");
    }
}

/// Folders that somebody removed to win space.
#[test]
fn a_cache_without_its_folders_is_completed() {
    let world = World::new(rich(), None);
    for folder in ["objects", "plans", "records", "rows", "runs", "tmp", "unfinished"] {
        let space = world.finished();
        fs::remove_dir_all(space.path(".refrain").join(folder)).unwrap();
        world.heals(&space, folder);
    }
}
