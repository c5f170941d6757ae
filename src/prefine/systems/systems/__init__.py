"""Systems that change what training takes and nothing of what is learnt."""
