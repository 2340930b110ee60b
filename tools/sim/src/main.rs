//! The command: see README.md.

use ringsim::plan::Plan;
use ringsim::story::Story;
use ringsim::world::World;

fn main() {
    let seed: u64 = std::env::args().nth(1).expect("seed").parse().expect("number");
    let count: u64 = std::env::args().nth(2).map_or(1, |n| n.parse().expect("number"));
    for seed in seed..seed + count {
        let plan = Plan::draw(seed);
        let story = if count == 1 { Story::kept() } else { Story::default() };
        let mut world = World::new(&plan, story);
        let ended = world.run();
        if count == 1 {
            world.story().tail(200).for_each(|line| println!("{line}"));
        }
        println!("{seed} {ended:?}");
    }
}
