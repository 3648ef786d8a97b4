"""Test splits that authors published, as the names of files and people."""

from __future__ import annotations

CREMAD_ACTORS = range(1001, 1092)
"""CREMA-D's 91 actors (Cao et al. 2014)."""
CREMAD_TEST = (1015, 1020, 1021, 1030, 1033, 1052, 1062, 1081, 1082, 1089)
"""Diffused Heads' test actors, which DAWN took over; s15 is 1015 in their lists."""

HDTF_TEST = (
    *("RD_Radio14_000", "RD_Radio30_000", "RD_Radio47_000", "RD_Radio56_000"),
    *("WDA_AmyKlobuchar1_001", "WDA_BarbaraLee0_000", "WDA_BobCasey0_000"),
    *("WDA_CatherineCortezMasto_000", "WDA_DebbieDingell1_000", "WDA_DonaldMcEachin_000"),
    *("WDA_EricSwalwell_000", "WDA_HenryWaxman_000", "WDA_JanSchakowsky1_000"),
    *("WDA_JoeDonnelly_000", "WDA_JoeNeguse_001", "WDA_JohnSarbanes1_000", "WDA_KatieHill_000"),
    *("WDA_LucyMcBath_000", "WDA_MazieHirono0_000", "WDA_NancyPelosi1_000"),
    *("WDA_PattyMurray0_000", "WDA_RaulRuiz_000", "WDA_SeanPatrickMaloney_000"),
    *("WDA_TammyBaldwin0_000", "WDA_TerriSewell0_000", "WDA_TomCarper_000"),
    *("WDA_WhipJimClyburn_000", "WRA_AdamKinzinger0_000", "WRA_AnnWagner_000"),
    *("WRA_BobCorker_000", "WRA_CandiceMiller0_000", "WRA_CathyMcMorrisRodgers2_000"),
    *("WRA_CoryGardner1_000", "WRA_DebFischer1_000", "WRA_DianeBlack1_000", "WRA_ErikPaulsen_000"),
    *("WRA_GeorgeLeMieux_000", "WRA_JebHensarling0_001", "WRA_JoeHeck1_000"),
    *("WRA_JohnKasich1_001", "WRA_MarcoRubio_000"),
)
"""DAWN's 41 test videos of HDTF, from the data loaders that its authors released."""
