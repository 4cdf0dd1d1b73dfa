"""A blog as one writes it with SQLAlchemy and Alembic, by people who never heard of zvon: tests/orm/main.rs runs it.

    app.py COMMAND DATABASE [ARGUMENT]

    migrate   DATABASE REVISION  brings the schema to a revision; from nothing it makes all tables
    stamp     DATABASE REVISION  says that the schema is at a revision already
    found     DATABASE           writes what a new blog has
    write     DATABASE WHO       a user with everything that belongs to one
    edit      DATABASE WHO       changes of what both sides have
    rename    DATABASE OLD NEW   a tag gets another word
    nickname  DATABASE WHO NAME  writes the column that revision 2 brought
    read      DATABASE           everything that there is, as JSON, without a single number that a database gave
"""

import json
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa
from alembic.command import stamp, upgrade
from alembic.config import Config
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    pass


post_tag = sa.Table(
    "post_tag",
    Base.metadata,
    sa.Column("post_id", sa.ForeignKey("post.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag_id", sa.ForeignKey("tag.id", ondelete="CASCADE"), primary_key=True),
)


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(100), unique=True)
    name: Mapped[str]
    invited_by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("user.id", ondelete="SET NULL"))
    invited_by: Mapped["User | None"] = relationship(remote_side=id)
    profile: Mapped["Profile | None"] = relationship(back_populates="user", cascade="all, delete-orphan")
    posts: Mapped[list["Post"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Profile(Base):
    __tablename__ = "profile"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id", ondelete="CASCADE"), unique=True)
    bio: Mapped[str]
    user: Mapped[User] = relationship(back_populates="profile")


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(unique=True)


class Post(Base):
    __tablename__ = "post"
    __table_args__ = (sa.UniqueConstraint("author_id", "slug"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id", ondelete="CASCADE"), index=True)
    reply_to_id: Mapped[int | None] = mapped_column(sa.ForeignKey("post.id", ondelete="CASCADE"))
    slug: Mapped[str]
    title: Mapped[str]
    written: Mapped[datetime]
    price: Mapped[Decimal] = mapped_column(sa.Numeric(8, 2), default=Decimal("0.00"))
    is_draft: Mapped[bool] = mapped_column(default=False)
    author: Mapped[User] = relationship(back_populates="posts")
    reply_to: Mapped["Post | None"] = relationship(remote_side=id)
    tags: Mapped[list[Tag]] = relationship(secondary=post_tag)


def engine_of(database, foreign_keys=True):
    engine = sa.create_engine(f"sqlite:///{database}")

    @sa.event.listens_for(engine, "connect")
    def enforce(connection, _):
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    return engine


def alembic(command, database, revision):
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("database", database)
    command(config, revision)


def found(session):
    admin = User(email="admin@example.org", name="Admin", profile=Profile(bio="was here first"))
    words = [Tag(word=word) for word in ("news", "sql")]
    session.add_all(words)
    session.add(Post(author=admin, slug="hello", title="Hello", written=datetime(2026, 1, 2, 3, 4, 5), tags=words))


def write(session, who):
    admin = session.scalars(sa.select(User).where(User.email == "admin@example.org")).one()
    hello = session.scalars(sa.select(Post).where(Post.author == admin)).one()
    news = session.scalars(sa.select(Tag).where(Tag.word == "news")).one()
    user = User(email=f"{who}@example.org", name=who, invited_by=admin, profile=Profile(bio=f"{who}'s life"))
    guest = User(email=f"guest-of-{who}@example.org", name="Guest", invited_by=user)
    own, both = Tag(word=f"by {who}"), Tag(word="both")
    first = Post(
        author=user,
        slug="first",
        title=f"First of {who}",
        written=datetime(2026, 2, 3, 4, 5, 6, 789),
        price=Decimal("12.30"),
        tags=[news, own, both],
    )
    reply = Post(author=guest, slug="re", title="Re: Hello", written=datetime(2026, 3, 1), reply_to=hello, is_draft=True)
    answer = Post(author=user, slug="re", title=f"Re: Re: Hello by {who}", written=datetime(2026, 3, 2), reply_to=reply, tags=[own])
    session.add_all([user, guest, first, reply, answer])
    session.flush()
    # A tag on what both sides have, and one that comes and goes.
    hello.tags.append(own)
    session.flush()
    first.tags.remove(news)


def edit(session, who):
    posts = {post.title: post for post in session.scalars(sa.select(Post))}
    if who == "ann":
        session.delete(session.scalars(sa.select(User).where(User.email == "guest-of-bob@example.org")).one())
        posts["First of bob"].price = Decimal("99.99")
        posts["Hello"].tags.clear()
    else:
        posts["First of bob"].title = "First of Robert"
        posts["First of ann"].author.profile.bio = "as bob tells it"
        posts["Re: Re: Hello by ann"].is_draft = True


def rename(session, old, new):
    session.scalars(sa.select(Tag).where(Tag.word == old)).one().word = new


def nickname(session, who, name):
    sql = sa.text('UPDATE "user" SET nickname = :name WHERE name = :who')
    assert session.execute(sql, {"name": name, "who": who}).rowcount == 1


def read(session):
    columns = {column["name"] for column in sa.inspect(session.connection()).get_columns("user")}
    nicknames = {}
    if "nickname" in columns:
        nicknames = dict(session.execute(sa.text('SELECT email, nickname FROM "user"')).all())
    users = session.scalars(sa.select(User).order_by(User.email)).all()
    tags = session.scalars(sa.select(Tag).order_by(Tag.word)).all()
    return {"users": [of_user(user, nicknames) for user in users], "tags": [tag.word for tag in tags]}


def of_user(user, nicknames):
    return {
        "email": user.email,
        "name": user.name,
        "nickname": nicknames.get(user.email),
        "invited by": user.invited_by and user.invited_by.email,
        "bio": user.profile and user.profile.bio,
        "posts": [of_post(post) for post in sorted(user.posts, key=lambda post: post.slug)],
    }


def of_post(post):
    return {
        "slug": post.slug,
        "title": post.title,
        "written": post.written.isoformat(),
        "price": str(post.price),
        "draft": post.is_draft,
        "reply to": post.reply_to and [post.reply_to.author.email, post.reply_to.slug],
        "tags": sorted(tag.word for tag in post.tags),
    }


def main(command, database, *arguments):
    if command in ("migrate", "stamp"):
        return alembic(upgrade if command == "migrate" else stamp, database, *arguments)
    with Session(engine_of(database)) as session, session.begin():
        commands = {"found": found, "write": write, "edit": edit, "rename": rename, "nickname": nickname, "read": read}
        result = commands[command](session, *arguments)
    if result is not None:
        print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
