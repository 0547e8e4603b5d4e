# SPDX-License-Identifier: Apache-2.0
"""The parts that make_demo_text.py puts together: animals, places, plots, turns of talk."""

# ruff: noqa: E501
# fmt: off

ANIMALS = [
    ("fox", "he", ["red", "clever", "hungry", "young"], "a den under the roots of an oak"),
    ("crow", "she", ["black", "proud", "sharp-eyed", "old"], "the top of a tall elm"),
    ("hare", "he", ["swift", "boastful", "long-legged", "nervous"], "a hollow in the clover"),
    ("tortoise", "she", ["slow", "patient", "thoughtful", "wrinkled"], "the edge of the pond"),
    ("mouse", "she", ["small", "grey", "careful", "curious"], "a hole behind the mill"),
    ("wolf", "he", ["lean", "gruff", "lonely", "grim"], "a cave in the hills"),
    ("owl", "she", ["wise", "sleepy", "silent", "white"], "the loft of the old barn"),
    ("frog", "he", ["green", "cheerful", "noisy", "round"], "the reeds of the marsh"),
    ("heron", "she", ["tall", "solemn", "grey", "elegant"], "the shallow bend of the river"),
    ("badger", "he", ["stout", "grumpy", "hard-working", "honest"], "a burrow under the hedge"),
    ("squirrel", "she", ["quick", "busy", "restless", "merry"], "a hollow beech tree"),
    ("hedgehog", "he", ["prickly", "shy", "gentle", "snuffling"], "a heap of dry leaves"),
    ("goose", "she", ["loud", "stubborn", "fat", "brave"], "the farmer's yard"),
    ("donkey", "he", ["tired", "faithful", "dusty", "obstinate"], "a stable with a leaking roof"),
    ("cat", "she", ["striped", "idle", "soft-footed", "vain"], "the baker's kitchen"),
    ("dog", "he", ["loyal", "shaggy", "eager", "simple"], "the gate of the shepherd's hut"),
    ("otter", "she", ["sleek", "playful", "daring", "bright-eyed"], "a tunnel in the river bank"),
    ("raven", "he", ["dark", "cunning", "hoarse", "learned"], "a ledge of the ruined tower"),
    ("ant", "she", ["tiny", "tireless", "strict", "thrifty"], "a hill of sand and needles"),
    ("sparrow", "she", ["brown", "lively", "humble", "cheeky"], "a nest under the eaves"),
    ("bear", "he", ["huge", "good-natured", "drowsy", "clumsy"], "a cavern behind the waterfall"),
    ("goat", "she", ["nimble", "greedy", "bearded", "fearless"], "a stony pasture"),
    ("swan", "he", ["white", "haughty", "graceful", "quiet"], "the middle of the lake"),
    ("mole", "he", ["blind", "modest", "velvet-coated", "earnest"], "a maze below the meadow"),
]

PLACES = [
    "at the edge of a wide forest", "beside a slow brown river", "in a valley full of apple trees",
    "on a hill that looked over the sea", "near a mill with a broken wheel",
    "in a garden behind a stone wall", "at the crossing of two dusty roads",
    "on the shore of a cold lake", "in a field of ripe barley", "under an ancient bridge",
    "beyond the last house of the village", "between the orchard and the churchyard",
    "where the brook runs into the marsh", "on the sunny side of a mountain",
    "in a clearing among birches", "by a well that never ran dry",
]

SEASONS = [
    "in early spring", "one hot summer", "late in autumn", "in the depth of winter",
    "when the cherries were ripe", "in the week of the harvest", "as the snow began to melt",
    "when the first leaves were falling", "in a year without rain", "soon after the great flood",
    "on the longest day of the year", "in the month of storms",
]

TIMES = [
    "one morning", "one evening", "before sunrise", "at noon", "towards dusk", "after supper",
    "in the middle of the night", "on market day", "the next day", "a week later",
    "as the bells were ringing", "while the others slept",
]

WEATHER = [
    "the wind blew from the north", "a thin rain was falling", "the sky was as clear as glass",
    "fog lay on the fields", "thunder rolled behind the hills", "the sun burned on the stones",
    "frost covered the grass", "clouds hurried towards the sea", "not a leaf was moving",
    "it smelled of rain and cut hay", "the stars were very bright", "snow fell in large flakes",
]

DISHES = [
    "onion soup", "barley bread", "plum cake", "a stew of beans", "pancakes with honey",
    "roast chestnuts", "a pie of leeks", "baked apples", "cabbage and bacon", "lentils with mint",
    "dumplings", "fish with lemon", "porridge and cream", "a salad of cucumbers",
]

ERRANDS = [
    "to mend the roof", "to sell the wool", "to fetch the doctor", "to look for the lost lamb",
    "to buy a new kettle", "to return a borrowed ladder", "to visit a cousin", "to sharpen the axe",
    "to post a parcel", "to count the beehives", "to paint the boat", "to measure the field",
    "to have the clock repaired", "to hear the band play",
]

NAMES = [
    "Anna", "Bruno", "Clara", "David", "Edith", "Felix", "Greta", "Henry", "Ida", "Jonas", "Karla",
    "Leo", "Martha", "Nora", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tilda", "Ursula",
    "Victor", "Wilma", "Xavier", "Yvonne", "Zachary",
]

OPENINGS = [
    "Once, {season}, a {a_adj} {a} lived {place}, and a {b_adj} {b} was {a_his} neighbour.",
    "There was once a {a_adj} {a} whose home was {b_home}, although it had belonged to a {b}.",
    "{season}, a {a_adj} {a} met a {b_adj} {b} {place}.",
    "A {a_adj} {a} and a {b_adj} {b} had been friends since they were small.",
    "Long ago, {place}, people used to tell of a {a_adj} {a} and a {b_adj} {b}.",
    "A {a_adj} {a}, who lived in {a_home}, was walking {place} when {a_he} met a {b_adj} {b}.",
    "{time}, {season}, a {a_adj} {a} knocked at the door of a {b_adj} {b}.",
    "Nobody could remember how the {a_adj} {a} and the {b_adj} {b} had come to share one roof.",
]

FABLES = [
    (
        "the Race to the Bridge",
        [
            [
                'The {a} laughed at the {b} and said, "I could run to the bridge and back before '
                'you have tied your shoes."',
                '"You are the slowest creature I know," said the {a}. "A stone would beat you."',
                'All day the {a} talked of nothing but how fast {a_he} was.',
            ],
            [
                '"Then let us race," answered the {b}, "and let the winner keep the pears."',
                'The {b} thought for a while and said, "I will race you tomorrow, if you dare."',
                'The {b} only smiled and drew a line in the sand with one foot.',
            ],
            [
                "When the race began, {weather}, and the {a} was soon far ahead.",
                "They started at the old well, and after a minute the {a} could not be seen.",
                "The {a} shot away like an arrow, while the {b} began to walk.",
            ],
            [
                "Half way there {a_he} found a patch of sweet berries and sat down to eat.",
                "Sure of winning, {a_he} lay down in the shade and closed {a_his} eyes.",
                "But {a_he} stopped at every house to tell people that {a_he} was winning.",
            ],
            [
                "The {b} came by, step after step, and did not stop once.",
                "Meanwhile the {b} passed quietly, saying nothing to anybody.",
                "Hour after hour the {b} went on, and never looked to the left or the right.",
            ],
            [
                "When the {a} came running at last, the {b} was sitting on the bridge, eating pears.",
                "Too late the {a} jumped up; the others were cheering for the {b} already.",
                "The {a} reached the bridge out of breath and found the {b} asleep upon it.",
            ],
        ],
        [
            "Those who keep going will arrive.",
            "A short way is long for one who stops to be admired.",
            "Speed is a gift, but patience is a habit.",
        ],
    ),
    (
        "the Borrowed Coat",
        [
            [
                "That winter the {b} had no coat, and {weather}.",
                "The {b} was shivering, for moths had eaten {b_his} only coat.",
                "A hole in the wall let the cold into the house of the {b}.",
            ],
            [
                '"Take mine," said the {a}. "I have two, and I can wear only one."',
                'The {a} went home without a word and came back with a warm blanket.',
                '"What is mine is yours until the snow has gone," the {a} said.',
            ],
            [
                "The {b} promised to give it back in spring, but when spring came {b_he} forgot.",
                "Spring came, and the {b} was ashamed, because the coat had lost a sleeve.",
                "When the swallows returned, the {b} hid the coat at the bottom of a chest.",
            ],
            [
                "The {a} did not ask for it, and they spoke less and less.",
                "For {n} weeks they passed each other without a greeting.",
                "Whenever the {a} came along the path, the {b} looked the other way.",
            ],
            [
                "At last the {b} sewed all night, brushed the coat, and carried it back.",
                "Then one day the {b} could bear it no longer, and told the whole truth.",
                "In the end {b_he} came with the coat over one arm and a cake under the other.",
            ],
            [
                '"I never missed the coat," said the {a}. "I missed you."',
                '"Sit down," said the {a}, "the soup is hot, and I have been lonely."',
                'The {a} laughed until the windows shook, and from that day they were friends again.',
            ],
        ],
        [
            "A small debt grows large in silence.",
            "It is easier to return a coat than a friendship.",
            "Shame is a wall that is pulled down from the inside.",
        ],
    ),
    (
        "the Moon in the Bucket",
        [
            [
                "{time} the {a} looked into a bucket and saw the moon swimming in it.",
                "While drawing water, the {a} saw something round and silver in the bucket.",
                'The {a} came running and cried, "The moon has fallen into my bucket!"',
            ],
            [
                '"Now I am the richest of all," {a_he} thought, and covered it with a lid.',
                '"I shall sell its light to the highest bidder," said the {a}.',
                'At once {a_he} built a fence around it and sat down to keep watch.',
            ],
            [
                "The {b} came and asked why {a_he} was guarding a bucket of water.",
                'The {b} asked politely, "May I have a look at your treasure?"',
                "Soon everybody had heard of it, and the {b} came to see the wonder.",
            ],
            [
                'The {a} lifted the lid, but clouds had come, and the water was dark. "Thief!" {a_he} cried.',
                'When the lid was taken off, there was nothing inside but a drowned beetle.',
                'They looked together; the moon was gone, and the {a} began to weep.',
            ],
            [
                '"Look up," said the {b} gently, and pointed at the sky.',
                'The {b} took {a_him} by the shoulder and turned {a_him} round. "It was never yours," {b_he} said, "and so you cannot lose it."',
                '"Come," said the {b}, "I know a lake where it will be there for all of us."',
            ],
            [
                "The {a} poured the water over the beans, and they grew very well that year.",
                "From then on the {a} left the bucket open, and the moon visited whenever it liked.",
                "They sat on the wall until morning, and watched it for nothing.",
            ],
        ],
        [
            "What belongs to everybody cannot be kept under a lid.",
            "He who looks only down takes a picture for the thing.",
            "Light that is shared is not made less.",
        ],
    ),
    (
        "the Two Loaves",
        [
            [
                "They were going to town together {errand}, and each had a loaf of bread.",
                "A long road lay before them, and each carried one loaf in a bag.",
                "They had agreed to travel together, and both had packed bread and cheese.",
            ],
            [
                '"Let us eat yours first," said the {a}, "so that your bag becomes lighter."',
                'The {a} proposed, "We shall eat your loaf today and mine tomorrow."',
                'At noon the {a} said that {a_his} own loaf was still too fresh to cut.',
            ],
            [
                "The {b} agreed, and shared everything to the last crumb.",
                "Without a moment's doubt the {b} broke {b_his} loaf into equal halves.",
                "So the {b} opened {b_his} bag, and they both ate well.",
            ],
            [
                "The next day the {a} walked in front and ate in secret behind a hedge.",
                'On the second day the {a} said, "I am not hungry yet," and would not stop.',
                "When evening came again, the {a} claimed that {a_his} loaf had been stolen.",
            ],
            [
                "That night they came to a river, and the ferryman would take nothing but bread.",
                "Then a storm broke, and a widow offered them a bed in return for half a loaf.",
                "At the gate of the town a guard asked both of them to open their bags.",
            ],
            [
                "The {a} had to show {a_his} loaf after all, and blushed to the tips of {a_his} ears.",
                "There was bread enough in one bag, and much to explain.",
                'The {b} looked at the loaf for a long time. "It must be very lonely," {b_he} said, "to eat with your back to a friend."',
            ],
        ],
        [
            "Bread that is hidden turns dry.",
            "A shared loaf is the better half of two.",
            "The road shows who your companions are.",
        ],
    ),
    (
        None,
        [
            [
                "A terrible storm was coming, and all the animals were busy with their roofs.",
                "The old ones said that it would rain for {n} days.",
                "The barometer had fallen, and {weather}.",
            ],
            [
                '"I will mend mine tomorrow," said the {a}, and stretched out in the grass.',
                'The {a} whistled a tune and said that there was plenty of time.',
                '"Why work today?" asked the {a}. "The sky is still blue above my head."',
            ],
            [
                "The {b} carried straw and clay all day, and did not answer.",
                "The {b} asked {a_him} to help, and then to borrow a hammer, but it was no use.",
                "With great care the {b} laid one board upon another, and drove in every nail.",
            ],
            [
                "In the night the storm came, tore off branches, and filled the ditches.",
                "Towards midnight the first gust took the chimney, and the second the door.",
                "The rain fell as if somebody had turned the sea upside down.",
            ],
            [
                "Wet and trembling, the {a} stood at the door of the {b}.",
                'There was a knock, and a thin voice said, "It is raining into my bed."',
                "Before an hour had passed, the {a} came swimming rather than walking.",
            ],
            [
                '"Come in," said the {b}, "but tomorrow you will hold the ladder."',
                "The {b} moved aside on the bench, and said not a word about yesterday.",
                "They slept side by side, and in the morning they built two roofs.",
            ],
        ],
        [
            "The roof is best mended when the sun is shining.",
            "Tomorrow is a poor carpenter.",
            "One who has worked may be generous.",
        ],
    ),
    (
        "the Great Secret",
        [
            [
                '"I know a secret," said the {b}, "but it is a heavy one."',
                "The {b} had found a spring of clear water under a rock, and told only the {a}.",
                'The {b} whispered, "Beneath the third willow there are walnuts for the whole winter."',
            ],
            [
                "The {a} swore by {a_his} ears, {a_his} tail and {a_his} grandmother to be silent.",
                '"I am a grave," said the {a}, and locked {a_his} mouth with an invisible key.',
                "The {a} promised it three times, and each time a little louder.",
            ],
            [
                "But the secret tickled {a_him} like a feather, and {a_he} could not sleep.",
                "On the way home {a_he} met the miller's daughter, and told her only the half of it.",
                "So as not to burst, {a_he} told it to a hole in the ground.",
            ],
            [
                "By noon the geese knew it, and by evening the whole valley.",
                "Rumours have short legs but many of them; soon it was in every kitchen.",
                "The hole told the roots, the roots told the reeds, and the reeds told the wind.",
            ],
            [
                "When the {b} came to the place, {b_he} found {n} others there before {b_him}.",
                "The next day nothing was left there but footprints.",
                "A crowd stood around it with baskets, jugs and opinions.",
            ],
            [
                '"It was a good secret," said the {b}, "and I am sorry that I broke it by giving it away."',
                "The {b} was not angry, but never again said more to the {a} than good morning.",
                'Afterwards the {a} asked, "Do you trust me still?" "I trust you," said the {b}, "to be what you are."',
            ],
        ],
        [
            "Tell your secret to one, and you have told it to a hundred.",
            "A promise is as strong as the one who makes it.",
            "If you want a thing to be known, ask that it be kept quiet.",
        ],
    ),
    (
        "the Mirror",
        [
            [
                "A pedlar had lost a mirror on the road, and the {a} found it.",
                "In the attic of an empty house the {a} came upon a mirror in a golden frame.",
                "The river had washed a looking-glass ashore, and the {a} pulled it out of the mud.",
            ],
            [
                'The {a} looked into it and said, "What an ugly, unfriendly person!"',
                'When the {a} frowned, the stranger in it frowned too, and when {a_he} shouted, it shouted without a sound.',
                '"Somebody is living in there," the {a} told everyone, "and he has no manners."',
            ],
            [
                "Every day {a_he} went to quarrel with it, and every day it was worse.",
                "{a_he} threw apples at it, but the other one threw apples as well.",
                "For {n} nights {a_he} could not sleep for anger.",
            ],
            [
                "The {b} heard of it and asked to be shown the monster.",
                'At last the {b} said, "Let me have a word with this fellow."',
                "The {b}, who was in a good mood that morning, went to have a look.",
            ],
            [
                '"But it is a delightful person," said the {b}, "it smiled at me at once."',
                'The {b} bowed, and somebody bowed back. "How polite!" {b_he} said.',
                'The {b} laughed, and the glass was full of laughter. "I like your guest," said {b_he}.',
            ],
            [
                "The {a} tried a smile, a very small one, and was astonished.",
                "Carefully the {a} lifted one hand, and was greeted; and that was the end of the war.",
                'The {a} thought about it all night, and in the morning {a_he} began by saying, "Good day."',
            ],
        ],
        [
            "The world looks back at us as we look at it.",
            "One who seeks a quarrel carries it along.",
            "A smile is the cheapest key, and it fits most doors.",
        ],
    ),
    (
        "the Judge",
        [
            [
                "They had found a cheese together, and could not agree how to divide it.",
                "Both of them claimed the same pear tree, which stood exactly on the border.",
                "There was a quarrel about a hat that the wind had brought.",
            ],
            [
                '"I saw it first," said the {a}. "I touched it first," said the {b}.',
                '"It is mine by law," cried the {a}, and the {b} cried, "It is mine by right!"',
                "They shouted until the birds left the trees.",
            ],
            [
                "So they went to the magpie, who was known as a judge.",
                "A passing monkey offered to decide the matter without any fee.",
                "They took the case before the old rat, who owned a pair of scales.",
            ],
            [
                "The judge cut it into two parts, but one was larger, and so a bite had to be taken from it.",
                'The judge put on a pair of spectacles and said, "First I must examine the thing itself."',
                "The judge listened to both sides, yawned, and asked for a fork.",
            ],
            [
                "Now the other part was larger, and another bite was needed, and then another.",
                "It was examined from the left and from the right, and each time there was less of it.",
                '"Justice takes time," said the judge, chewing.',
            ],
            [
                'In the end nothing was left. "The case is closed," said the judge.',
                "The two of them walked home hungry, and for the first time they agreed on something.",
                '"Next time," said the {b} to the {a}, "you divide, and I choose."',
            ],
        ],
        [
            "When two quarrel, the third one eats.",
            "A poor agreement is better than a rich judge.",
            "Half of something is more than all of a right.",
        ],
    ),
    (
        "the Bell",
        [
            [
                'The {b} had an idea. "We shall hang a bell on the wolf," {b_he} said, "and hear him coming."',
                "Since a hawk had moved into the tower, the small animals met to find a remedy.",
                "They held a council, for something had been stealing the eggs {time}.",
            ],
            [
                "The {a} made a long speech about courage, and everybody clapped.",
                '"An excellent plan," said the {a}, "bold, simple and complete."',
                "They voted for it, they drank to it, and the {a} wrote it down in a large book.",
            ],
            [
                "Only one old aunt in the corner raised her hand and asked who would do it.",
                'Then it was quiet for a moment, and somebody asked, "And who will go?"',
                "When the {b} asked for volunteers, one had a cough and the other a sick uncle.",
            ],
            [
                "The {a} looked at the ceiling and remembered that {a_he} had left the stove burning.",
                "The {a} explained that thinking was {a_his} part of the work.",
                '"I would go at once," said the {a}, "if only I had the right shoes."',
            ],
            [
                "So the {b} took the bell and went alone, with knees like butter.",
                "In the end the {b} tied the bell to {b_his} own belt, and set out.",
                "Nobody moved; and so the {b}, who was the smallest of them, stood up.",
            ],
            [
                "What happened there is another story, but the bell was heard that very night, far away and going farther.",
                "It turned out that the monster was only an old dog without a home, who liked the bell very much.",
                "The {b} came back at dawn, pale and proud, and nobody spoke of the book again.",
            ],
        ],
        [
            "It is one thing to plan and another to do.",
            "Courage is seldom found in speeches.",
            "Ask of every plan: who carries the bell?",
        ],
    ),
    (
        "the Teacher of Songs",
        [
            [
                "The {a} had a voice like a rusty hinge, and sang from morning to night.",
                "Nothing gave the {a} more joy than singing, and nothing gave the others less.",
                "The {a} wished to sing at the midsummer feast.",
            ],
            [
                '"Who taught you that?" asked the {b}, and covered both ears.',
                "The {b}, who knew every song of the valley, listened for a while and sighed.",
                '"There is a good song somewhere in there," said the {b}, "but it is locked in."',
            ],
            [
                '"First you must learn to listen," said the {b}. "Tell me what you hear."',
                "The lesson began, strangely, without a single note: they sat by the brook in silence.",
                'The {b} said, "Bring me {n} sounds that you have never noticed."',
            ],
            [
                "The {a} heard the rain on the leaves, the creaking gate, and {a_his} own heart.",
                "At first there was nothing; then there were crickets, a far-off saw, a child calling.",
                "It took {n} days, and the {a} was often angry.",
            ],
            [
                "Then {a_he} tried again, softly, as one opens the door of a room where somebody sleeps.",
                'One evening {a_he} began to hum, and the {b} said nothing, but nodded.',
                "When {a_he} sang at last, it was low and a little crooked, but it was a song.",
            ],
            [
                "At the feast the others moved closer instead of going away.",
                "Even the stones seemed to listen, and afterwards nobody clapped, because nobody wanted to be the first to break it.",
                'The {b} blew {b_his} nose and said, "Now I have something to learn from you."',
            ],
        ],
        [
            "Whoever wants to be heard must first listen.",
            "A teacher opens doors; the walking is ours.",
            "Silence is the mother of all songs.",
        ],
    ),
]

TALKS = [
    ("the Weather", [
        ["Good morning, {q}. Have you seen the sky?", "There you are, {q}! {weather} when I got up.",
         "Do you think it will rain today, {q}?"],
        ["It looked just the same before the flood.", "My knee says rain, and my knee is never wrong.",
         "The swallows are flying high, so it will stay dry."],
        ["Last year you said the same, and we sat in the sun for {n} weeks.",
         "Then I had better bring in the washing.", "Your knee has been wrong since your sister's wedding."],
        ["A little rain would do the beans good.", "We shall see who is laughing at four o'clock.",
         "Take an umbrella, and it will certainly stay dry."],
        ["I left mine on the ferry.", "Mine has a hole, but I am fond of it.",
         "I lent it to the teacher, who lent it to the wind."],
        ["Then come inside, there is {dish}.", "We can share mine, if you walk on the left.",
         "In that case I hope that my knee is mistaken."],
    ]),
    ("the Lost Key", [
        ["I have lost the key of the cellar again.", "Have you seen my key, {q}? The small one with the blue ribbon.",
         "Somebody has taken the key from its nail!"],
        ["Where did you have it last?", "Did you look in your other pocket?", "Is it the key that you lost on Monday?"],
        ["If I knew that, it would not be lost.", "I had it when I went {errand}.",
         "I remember that I put it somewhere safe."],
        ["Somewhere safe is where things go to disappear.", "Then let us walk the same way once more, slowly.",
         "Look under the flower pot, everyone does."],
        ["There is a snail under the flower pot, and {n} old nails.", "I have looked everywhere but in the soup.",
         "Wait, what is that around the neck of the cat?"],
        ["What is it that shines there in your hat?", "I hear something ringing whenever you move.",
         "Perhaps the door was open all the time."],
        ["Well! Not a word of this to my mother.", "So it was. I shall put it back somewhere safe.",
         "You are a treasure, {q}, and I am a donkey."],
    ]),
    ("Bread", [
        ["How do you make your bread so light?", "Your bread is better than mine, and I want to know why.",
         "Teach me to bake, {q}."],
        ["Flour, water, salt, and no hurry.", "I talk to it, but you may leave that out.",
         "It begins the evening before."],
        ["How much flour?", "And the oven, how hot must it be?", "Mine is always flat like a plate."],
        ["As much as the water wants.", "Hot enough that you pull your hand back before you can say your name twice.",
         "Then you were impatient. Let it sleep until it has doubled."],
        ["And how do I know when it is done?", "What if it burns?", "May I use honey?"],
        ["Knock on the bottom; it must sound hollow, like a good drum.", "Burnt bread makes fine crumbs for a pudding.",
         "You may use honey, but not when my grandmother is looking."],
        ["I will try it on Saturday.", "It sounds easy, and so it must be difficult.", "Will you come and taste it?"],
        ["The third loaf will be good. Eat the first two in the dark.", "I can smell it already.",
         "Bring butter, and I shall come."],
    ]),
    ("the Train", [
        ["Is this the train to the coast?", "Excuse me, is this seat free?", "Does this train stop at the mill?"],
        ["It is, if it ever leaves.", "Please sit down. I am {q}.", "It stops everywhere, even where there is nothing."],
        ["I am travelling {errand}.", "I was told to change twice and to trust nobody with a whistle.",
         "I have been waiting for {n} hours."],
        ["That is a long way to go.", "Then you will be hungry. I have {dish} in this basket.",
         "We used to walk it when I was young."],
        ["Look, a heron!", "How pretty the fields are from here.", "Why are we standing still?"],
        ["There is a cow on the line. Her name is Victoria.", "The driver is picking mushrooms.",
         "In spring all of this is under water."],
        ["Nobody seems to be in a hurry.", "I shall be late, and I find that I do not mind.",
         "Is it always like this?"],
        ["Only on days with a name.", "You get used to it, and then you miss it elsewhere.",
         "Have an apple. The sea will wait."],
    ]),
    ("the Clock", [
        ["My clock runs backwards, can you mend it?", "Good day. I have brought you a sick clock.",
         "They say that you can repair anything that ticks."],
        ["Let me hear it.", "Put it on the table, and don't hold your breath.", "How long has it been unhappy?"],
        ["Since we moved the piano.", "Since my uncle wound it with a spoon.", "It has struck thirteen ever since the fair."],
        ["I see. There is a spider in the works.", "A wheel has lost {n} teeth.", "It isn't broken, it is only homesick."],
        ["Can something be done?", "What will it cost?", "Is it serious?"],
        ["Leave it here until Thursday.", "I will ask you for a jar of plums.", "Oil, rest, and a straight wall."],
        ["You are very kind, {q}.", "And what shall I do without the time until then?", "I can pay with eggs."],
        ["Listen to the bells, like everybody else.", "Live a little. It goes on by itself.",
         "Eggs are better than money; they cannot be counted twice."],
    ]),
    ("the Garden", [
        ["What have you planted this year?", "Your peas are taller than mine, {q}.", "Something has eaten all my lettuce."],
        ["Beans, onions, and a row of sunflowers for the bees.", "I sing to them, that is all.",
         "It was a hedgehog, or a bishop; the footprints are alike."],
        ["My soil is heavy and full of stones.", "I should like to grow melons.", "How often do you water them?"],
        ["Stones keep the warmth. Be glad of them.", "In this valley? You might as well grow lemons on the church.",
         "Early in the morning, and never on Sundays."],
        ["And what do you do about the snails?", "May I have a few seeds?", "Who taught you all that?"],
        ["I carry them to the vicar.", "Take a handful, and bring back two.", "My father, and a book without a cover."],
        ["We could share a barrel of rain.", "Then I shall begin on Monday.", "Come and look at my roses, {q}."],
        ["Gladly. A garden is half work and half conversation.", "Begin with radishes, they forgive everything.",
         "I will come after supper, when the light is long."],
    ]),
]

LETTERS = [
    [
        ["I arrived here yesterday, {season}, and all is well.", "At last I find an hour to write to you.",
         "You asked how I am living, and so I shall tell you."],
        ["The house stands {place}, and from my window I can see {n} chimneys.",
         "My room is small and smells of apples.", "The journey was long, and {weather} all the way."],
        ["The people are friendly, though they speak as if they had a potato in the mouth.",
         "My landlady cooks {dish} on every day with an r in it.",
         "I share the table with a retired captain who knows every star by name."],
        ["In the mornings I work, and in the afternoons I walk until my shoes complain.",
         "I have begun to learn the violin, and the dog has begun to leave the house.",
         "They have given me the task {errand}, although I know nothing about it."],
        ["I often think of our kitchen, and of the clock that was always late.",
         "Do you still go down to the river in the evening?", "Please tell me whether the walnut tree was hurt by the storm."],
        ["Write soon, and write a great deal.", "Send me my blue scarf, and some of your patience.",
         "I shall be home before the first snow, if the roads allow it."],
    ],
    [
        ["Thank you for your parcel, which came {time}.", "Your parcel has arrived, a little wet but complete.",
         "How can I thank you for such a present?"],
        ["The socks fit me, and the jam did not live to see the evening.",
         "I had not eaten {dish} since I left home, and I wept like a child.",
         "The book is exactly the one that I had been looking for."],
        ["Here there is not much news.", "You will want to hear what has happened here.",
         "Since you left, the village has talked of nothing but the new bridge."],
        ["The baker has married the postmistress, and now the letters smell of cinnamon.",
         "Old Tobias fell off the ladder, but landed in the hay and slept there until noon.",
         "The school has a new stove, and the children have learned to spell again."],
        ["{weather}, and we all went {errand}.", "In the evenings we read aloud, {n} pages each.",
         "The cow has had twins, and they are named after you and me."],
        ["Come and see for yourself.", "There is always a bed for you, and a place at the stove.",
         "Keep well, wear a hat, and don't forget us."],
    ],
    [
        ["I am writing to ask you a favour.", "I have something on my mind, and you are the one who will understand.",
         "This is a letter that I have begun {n} times."],
        ["You know that I quarrelled with my brother about the boat.",
         "It is about the money that I borrowed when {weather}.",
         "When we last met, {place}, I said things that I did not mean."],
        ["I was wrong, and it has taken me a whole season to write that word.",
         "Neither of us remembers any more how it began.", "Pride is a heavy coat in summer."],
        ["Would you speak to him for me?", "Would you let me explain it to you at the table, over {dish}?",
         "I enclose the first part of it, and a drawing of the harbour."],
        ["I shall be at the station on Friday at noon, and I shall be wearing the green hat.",
         "If you do not answer, I will understand that, too.", "Whatever you decide, I remain grateful for those years."],
    ],
]

CLOSINGS = [
    "With love", "Your old friend", "Yours truly", "As ever", "With many greetings",
    "Until we meet again", "Your cousin", "In haste", "Faithfully yours",
]

DIARY = [
    [
        "Woke early; {weather}.", "A quiet day.", "{weather}, and I stayed in bed until eight.",
        "I had meant to write yesterday, but fell asleep over the page.", "Up before the sun {errand}.",
        "The cock crowed twice, and then apparently thought better of it.",
    ],
    [
        "Walked with {p} to the old bench {place}, and counted {n} herons on the way.",
        "Went out {errand}, but the shop was closed.",
        "Spent the morning in the garden and pulled out more carrots than weeds.",
        "Tried to mend the pump, with the result that it now whistles.",
        "Read the whole morning, and let the stove go out.",
        "Helped {q} to carry a wardrobe up {n} flights of stairs, and down again.",
    ],
    [
        "At noon we had {dish}, and too much of it.", "{p} came to lunch and brought {dish}.",
        "Ate standing up, since the table is being painted.",
        "Nothing to eat in the house but {dish}; there are worse things.",
    ],
    [
        "In the afternoon {q} told me about the years at sea.",
        "Later the children came and asked me to draw them a whale.",
        "A stranger asked the way to the mill, and I sent him to the harbour by mistake.",
        "Found a letter in an old coat, and have been wondering since who wrote it.",
        "The piano was tuned, and the house is now ashamed of its doors.",
        "Saw a kingfisher, blue as a struck match, and gone as fast.",
        "We argued about the price of hay, and parted as friends.",
    ],
    [
        "I notice that I am happier on days when I use my hands.",
        "How much of a life is spent looking for spectacles!",
        "One should write down what people say; it is always better than what one remembers.",
        "I must learn to leave before I am tired of a place.",
        "It occurred to me that nobody has asked me a question for a week.",
        "Resolved to be more patient, and lost my temper over it.",
    ],
    [
        "To bed at ten.", "The lamp is low, so I stop here.", "Tomorrow, if it is dry, the hay.",
        "Now it is raining again, and I like the sound of it.", "Good night, whoever reads this.",
        "The fire is out. Enough.",
    ],
]

RIDDLES = [
    ("a candle", ["I am tall when I am young and short when I am old.", "I weep although I feel no pain.",
                  "One breath can kill me.", "I eat myself so that others can see.", "The darker it is, the more I am loved."]),
    ("an echo", ["I speak every language, yet I have never learned one.", "I always have the last word.",
                 "I live in mountains and in empty rooms.", "I repeat all that I hear and understand nothing.",
                 "If you are silent, I am not there."]),
    ("a river", ["I run all day and never leave my bed.", "I have a mouth, but I do not eat.",
                 "I was born on a mountain and shall end in salt.", "Bridges are my bracelets.", "Nobody steps into me twice."]),
    ("a book", ["I have a spine but no bones.", "I have leaves, although I am no tree.", "I speak to you without a voice.",
                "When you close me, I wait for years without complaint.", "A whole kingdom may live between my covers."]),
    ("the wind", ["I have no hands, but I open doors.", "I carry seeds, sails and hats.", "I can be heard but never seen.",
                  "I whistle without lips.", "When I rest, the mill rests."]),
    ("a shadow", ["I follow you all day and vanish at noon.", "I am long in the morning and long in the evening.",
                  "I lie on the water and do not get wet.", "I cannot live without light, yet I am dark.",
                  "Nobody has ever lifted me from the ground."]),
    ("a needle", ["I have one eye and cannot see.", "I wear a long tail that grows shorter with my work.",
                  "I go through silk and leather alike.", "I am small, but a whole coat depends on me.",
                  "Lose me in the hay, and you will search for a week."]),
    ("a clock", ["I have a face but no eyes.", "My hands never hold anything.", "I walk all day without leaving the wall.",
                 "I am asked by everyone and never answer aloud.", "If I stand still, I am still right twice a day."]),
    ("snow", ["I fall and am never hurt.", "I make the old village new in one night.", "Children love me, and roofs do not.",
              "I am white on the ground and black at the side of the road.", "The sun pays me a visit, and I am gone."]),
    ("tomorrow", ["I am always coming and never arrive.", "Lazy people give me all their work.",
                  "Everybody knows my name, and nobody has met me.", "Tonight I am near; in the morning I am far again.",
                  "Hope lives in my house."]),
    ("a key", ["I am small, and yet houses obey me.", "I have teeth, but I do not bite.", "I dance in a hole to earn my bread.",
               "Those who have many of me are seldom at home.", "Lose me, and you are a stranger at your own door."]),
    ("bread", ["I was gold in the field and white in the mill.", "I grow while I sleep.", "I am beaten before I am loved.",
               "Fire makes me, and the knife unmakes me.", "Kings and beggars call me by the same name."]),
]
