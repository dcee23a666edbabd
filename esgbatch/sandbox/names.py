"""The words of which the firm's account names are made, and the names and IDs that hurt."""

from __future__ import annotations

GIVEN = (
    "James", "Mary", "Robert", "Patricia", "John", "Jennifer", "Michael", "Linda", "David", "Elizabeth",
    "William", "Barbara", "Richard", "Susan", "Joseph", "Jessica", "Thomas", "Karen", "Carlos", "Sofía",
    "Wei", "Priya", "Ahmed", "Fatima", "Hiroshi", "Zoë", "André", "Jürgen", "Søren", "Siobhán", "Łucja",
    "Noémie",
)  # fmt: skip

FAMILY = (
    "Smith", "Johnson", "Williams", "Brown", "Jones", "Garcia", "Miller", "Davis", "Rodriguez", "Martinez",
    "Hernandez", "Lopez", "Wilson", "Anderson", "Taylor", "Moore", "Jackson", "Martin", "Lee", "Thompson",
    "White", "Harris", "Clark", "Lewis", "Robinson", "Walker", "Young", "Allen", "King", "Wright", "Scott",
    "Torres", "Nguyen", "Hill", "Flores", "Green", "Adams", "Nelson", "Baker", "Hall", "Rivera", "Campbell",
    "O'Brien", "McKenzie", "Van der Berg", "Saint-Pierre", "Müller", "Núñez", "Lindström", "Østergård",
    "Dvořák", "Kowalczyk", "Łukasik", "Çelik", "Țepeș", "Nguyễn", "Papadopoulos", "Ivanova", "Okafor", "Patel",
    "Yamamoto", "Kim", "Abd al-Rahman", "Fitzgerald",
)  # fmt: skip

PLACE = (
    "Cook County", "Lake Forest", "Evanston", "St. Louis", "Milwaukee", "Des Moines", "Baton Rouge", "Austin",
    "San José", "Québec", "Zürich", "Kraków", "Minneapolis", "Twin Cities", "Galveston", "Oak Park",
)  # fmt: skip

PATTERNS = (
    "{family} Family Trust",
    "{family} Family Trust",
    "{given} {family} Revocable Trust",
    "{given} {family} IRA",
    "{given} {family} Roth IRA",
    "{given} & {other} {family} JTWROS",
    "Estate of {given} {family}",
    "{family} Charitable Foundation",
    "{family} & {second} LLP Pension Plan",
    "{family}, {second} & Partners, LLC",
    "{place} Teachers' Retirement Fund",
    "{place} Community Foundation",
    "{place} Hospital Endowment",
    "{family} Holdings, Inc.",
    "{family} 529 Plan (FBO {given})",
    "{given} {family} UTMA",
)

# Account IDs of older systems: each breaks a client that encodes, strips or quotes carelessly.
ODD_IDS = (
    "TR/2019/0007", "A 17", "100%-FUND", "WHO?", "C#12", "..", ".", "Zürich-001", "顧客-7", "A+B",
    "=1+1", "-42", "@desk", "O'Neil \"7\"", "A,B;C", "%2F", "&id=1",
)  # fmt: skip

# Their names, likewise: formulas, quotes, separators, blanks at the ends, line ends, other scripts.
ODD_NAMES = (
    "=ONE Holdings", "+Plus Family Office", "-Omega- Capital", "@Home Trust", 'The "Sunny Day" Foundation',
    "Smith, Jones & Co.", " Leading Blank Trust", "Trailing Blank Trust ", "Two\nLines Trust",
    "山本家族信託", "Семейный фонд Ивановых", "صندوق الأسرة", "\tTab Trust", "Family 👪 Trust",
    "'Quoted' Trust", "Null", "",
)  # fmt: skip
