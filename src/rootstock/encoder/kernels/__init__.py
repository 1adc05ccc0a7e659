"""Operations that run faster here than in plain PyTorch."""
