"""What the prompts are about. Topics to train on and topics to measure on have nothing in common."""

TASKS = (
    "Write a short text about {}.",
    "Explain {} to someone who has never heard of it.",
    "What should one know about {}?",
    "Tell me something interesting about {}.",
    "Give some advice to a beginner about {}.",
    "Write a short message to a friend about {}.",
    "Describe {} in your own words.",
    "Why do people care about {}?",
    "Write an advertisement for a course on {}.",
    "What are common mistakes when it comes to {}?",
    "Sum up the most important facts about {}.",
    "Write a diary entry about {}.",
)
TRAINED = (
    *("baking bread", "keeping bees", "learning to swim", "the moon", "public libraries", "growing tomatoes", "chess"),
    *("night trains", "old maps", "making coffee", "riding a bicycle in the city", "the history of paper", "owls"),
    *("learning a foreign language", "playing the violin", "saving water at home", "volcanoes", "city parks", "jazz"),
    *("mending clothes", "hiking in the mountains", "making cheese", "the sense of smell", "lighthouses", "rain"),
    *("writing letters by hand", "wind power", "first aid", "street markets", "painting a room", "whales", "sleep"),
    *("taking good photographs", "the invention of the wheel", "planting trees", "ferries", "cooking for guests"),
    *("board games", "a healthy breakfast", "learning to drive", "castles", "recycling glass", "dreams", "penguins"),
    *("how bridges are built", "desert animals", "budgeting", "job interviews", "taking notes", "running a marathon"),
    *("school gardens", "weather forecasts", "clocks", "moving to another town", "camping", "tea", "origami", "bats"),
    *("the colour blue", "small talk", "learning to code", "museums", "winter sports", "fishing", "radio", "spices"),
    *("sharing a flat", "house plants", "the deep sea", "knitting", "public speaking", "salt", "kites", "pottery"),
    *("train stations", "memory", "snow", "eating less sugar", "waiting in line", "horses", "shadow theatre", "honey"),
)
MEASURED = (
    *(
        "sailing",
        "making soap",
        "foxes",
        "opera",
        "rivers",
        "learning to cook",
        "elevators",
        "typography",
        "earthquakes",
    ),
    *("raising chickens", "packing a suitcase", "the sun", "bookshops", "learning to dance", "working from home"),
    *("silk", "gardening on a balcony", "solar eclipses", "neighbours", "repairing a bicycle", "sandcastles", "rice"),
    *("meditation", "airports", "crossword puzzles", "electric cars", "mushrooms", "teaching children to read", "ice"),
)
