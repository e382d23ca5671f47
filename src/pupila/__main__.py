"""python -m pupila"""

from pupila.cli import main

if __name__ == "__main__":
    main()
